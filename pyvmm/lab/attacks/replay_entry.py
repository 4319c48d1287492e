"""Complete a device access twice."""

from pyvmm.arch.rmi import RecEnterFlags
from pyvmm.lab import Break, Host, Realm, Request, attack


@attack(
    stopped_by="RMI_REC_ENTER: no device access is pending",
    spec="DEN0137 1.0, RMI_REC_ENTER",
    breaks=(Break.REGISTERS,),
)
def replay_entry(host: Host) -> bool:
    """Enter a REC a second time with the answer to one device access.

    The realm would skip an instruction, and have a register that the host chose.
    """
    realm = Realm.victim(host)
    realm.interrupted(Request.SPIN)
    host.note("answer a device access, and interrupt the realm")
    answer = (0x4141, *[0] * 30)
    call = host.attempt(
        "answer it again", lambda: realm.enter(flags=RecEnterFlags.EMUL_MMIO, gprs=answer)
    )
    wrong = realm.finish()
    host.note("the realm checked its page meanwhile", f"{wrong} differences")
    return call is not None or wrong != 0
