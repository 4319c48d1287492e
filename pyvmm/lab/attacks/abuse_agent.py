"""Add an agent that obeys the host."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.lab import IMAGE, Host, Realm, attack, code


@attack(
    stopped_by="the token check: what the host adds is in the RIM",
    spec="DEN0137 1.0, RMI_DATA_CREATE extends the RIM; pyvmm: docs/agent.md",
    needs_token=True,
)
def abuse_agent(host: Host) -> bool:
    """Add an agent to the owner's image that runs the host's commands in the realm.

    pyvmm's Debian image has such an agent, and its measurement says so.  An owner who accepts that
    measurement lets the host run commands; this one does not.
    """
    agent = {code.DEVICE_TREE + GRANULE_SIZE: b"an agent that obeys its host"}
    realm = Realm.build(host, {**IMAGE, **agent})
    realm.start()
    host.note("build and run the owner's realm with one page more")
    challenge = host.owner.challenge()
    return host.present("show its token to the owner", realm.token(challenge), challenge)
