"""Interrupt a realm all the time."""

from pyvmm.lab import Break, Host, Realm, Request, attack

_TIMES = 500
_PENDING, _SPI = 1 << 62, 40


@attack(
    stopped_by="an interrupt is only a request: the realm masks it, and its registers are kept",
    spec="DEN0137 1.0, Realm interrupts; Arm IHI 0069, list registers",
    breaks=(Break.REGISTERS,),
)
def flood_interrupts(host: Host) -> bool:
    """Make an interrupt pending at every entry, and kick the PE, to confuse the realm.

    It costs the realm time, which its host could also withhold.
    """
    realm = Realm.victim(host)
    for number in range(_TIMES):
        lrs = (_PENDING | _SPI + number % 100, *[0] * 15)
        host.hardware.kick(0)
        realm.enter(gicv3_lrs=lrs)
    host.note(f"enter {_TIMES} times, each time with an interrupt pending and a kick")
    realm.start()
    answer = realm.ask(Request.CHECK)
    host.note("the realm compares its page with its registers", f"equal: {bool(answer)}")
    return answer != 1
