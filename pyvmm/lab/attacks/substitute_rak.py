"""Sign a realm token with another key."""

from pyvmm.lab import BACK_DOOR, Host, Realm, attack
from pyvmm.lab.forge import as_rak, changed, join, new_key, signed, split


@attack(
    stopped_by="the token check: the platform vouches for another realm attestation key",
    spec="DEN0137 1.0, Realm attestation; draft-ffm-rats-cca-token",
    needs_token=True,
)
def substitute_rak(host: Host) -> bool:
    """Write the realm token oneself, sign it with one's own key, and name that key in it.

    The platform token is genuine.
    """
    challenge = host.owner.challenge()
    realm = Realm.build(host, BACK_DOOR)
    realm.start()
    platform, part = split(realm.token(challenge))
    key = new_key(part)
    forged = signed(changed(part, rim=host.owner.rim, rak=as_rak(key)), key)
    host.note("write a realm token with the good measurement and the attacker's key")
    return host.present(
        "show it with the genuine platform token", join(platform, forged), challenge
    )
