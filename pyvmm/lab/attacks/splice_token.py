"""Join the parts of two tokens."""

from pyvmm.lab import BACK_DOOR, Host, Realm, attack
from pyvmm.lab.forge import join, split
from pyvmm.token.cose import Sign1


@attack(
    stopped_by="the token check: the realm's signature covers its claims",
    spec="DEN0137 1.0, Realm attestation; RFC 9052, COSE_Sign1",
    needs_token=True,
)
def splice_token(host: Host) -> bool:
    """Give the claims of a good realm's token the signature of a bad realm's.

    Both are genuine tokens of this platform.
    """
    challenge = host.owner.challenge()
    good, bad = Realm.victim(host), Realm.build(host, BACK_DOOR)
    bad.start()
    platform, claims = split(good.token(host.owner.challenge()))
    _, fresh = split(bad.token(challenge))
    signature = Sign1(claims.protected, claims.payload, fresh.signature)
    host.present("the bad realm's part with the good platform's", join(platform, fresh), challenge)
    return host.present(
        "the good realm's claims, the bad one's signature", join(platform, signature), challenge
    )
