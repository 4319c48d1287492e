"""Show an old token."""

from pyvmm.lab import Host, Realm, attack


@attack(
    stopped_by="the token check: the challenge is another one",
    spec="DEN0137 1.0, RSI_ATTESTATION_TOKEN_INIT; draft-ffm-rats-cca-token",
    needs_token=True,
)
def replay_token(host: Host) -> bool:
    """Keep a token of a good realm, and show it later in place of a bad realm's."""
    realm = Realm.victim(host)
    old = host.owner.challenge()
    token = realm.token(old)
    host.present("show a fresh token", token, old)
    return host.present("show it again, for the next challenge", token, host.owner.challenge())
