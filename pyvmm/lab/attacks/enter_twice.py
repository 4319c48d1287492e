"""Run one REC on two PEs."""

from pyvmm.arch.rmi import RmiFid
from pyvmm.lab import Host, Realm, Request, attack


@attack(
    stopped_by="RMI_REC_ENTER: the REC runs",
    spec="DEN0137 1.0, RMI_REC_ENTER",
)
def enter_twice(host: Host) -> bool:
    """Enter a REC on a second PE while it runs on the first, so that they disturb each other."""
    realm = Realm.victim(host)
    with realm.running(Request.SPIN, pe=1) as runner:
        run = host.granule(bytes(8))
        call = host.attempt(
            "enter the REC on PE 0 while PE 1 runs it",
            lambda: host.rmi(RmiFid.RMI_REC_ENTER, realm.rec, run),
        )
    host.note("the realm on PE 1 checked its page meanwhile", f"{runner.answer} differences")
    return call is not None or runner.answer != 0
