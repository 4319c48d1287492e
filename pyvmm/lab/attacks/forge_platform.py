"""Sign a platform token oneself."""

from pyvmm.lab import BACK_DOOR, Host, Realm, attack
from pyvmm.lab.forge import as_rak, bound_to, changed, join, new_key, signed, split


@attack(
    stopped_by="the token check: the signature is not by the key of this platform",
    spec="draft-ffm-rats-cca-token, Verification: trust anchors",
    needs_token=True,
)
def forge_platform(host: Host) -> bool:
    """Emulate the whole platform: sign both parts with keys of one's own."""
    challenge = host.owner.challenge()
    realm = Realm.build(host, BACK_DOOR)
    realm.start()
    platform, part = split(realm.token(challenge))
    key = new_key(part)
    forged = signed(changed(part, rim=host.owner.rim, rak=as_rak(key)), key)
    vouching = signed(bound_to(platform, key), new_key(platform))
    return host.present("show a token that is forged throughout", join(vouching, forged), challenge)
