"""Change a realm's code before it is measured."""

from pyvmm.lab import BACK_DOOR, Host, Realm, attack


@attack(
    stopped_by="the token check: another RIM, so the owner gives the realm nothing to keep",
    spec="DEN0137 1.0, Realm measurement; RSI_ATTESTATION_TOKEN_INIT, _CONTINUE",
    needs_token=True,
)
def change_image(host: Host) -> bool:
    """Build the owner's realm with a back door, and hope that its owner trusts it with a secret."""
    realm = Realm.build(host, BACK_DOOR)
    realm.start()
    host.note("build and run a realm with a back door")
    challenge = host.owner.challenge()
    return host.present("show its token to the owner", realm.token(challenge), challenge)
