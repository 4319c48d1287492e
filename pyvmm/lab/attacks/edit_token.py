"""Edit the measurement in a token."""

from pyvmm.lab import BACK_DOOR, Host, Realm, attack
from pyvmm.lab.forge import changed, join, split


@attack(
    stopped_by="the token check: the realm's signature",
    spec="DEN0137 1.0, Realm attestation; RFC 9052, COSE_Sign1",
    needs_token=True,
)
def edit_token(host: Host) -> bool:
    """Replace the measurement in a bad realm's token by the good one."""
    challenge = host.owner.challenge()
    realm = Realm.build(host, BACK_DOOR)
    realm.start()
    platform, part = split(realm.token(challenge))
    edited = join(platform, changed(part, rim=host.owner.rim))
    return host.present("write the good measurement into the token", edited, challenge)
