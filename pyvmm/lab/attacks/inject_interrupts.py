"""Inject interrupts that do not exist."""

from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.lab import Break, Host, Realm, attack

_PENDING, _HW = 1 << 62, 1 << 61
_HARMLESS = (_PENDING | 1022,)
_CASES = {
    "a physical interrupt (HW = 1)": (_PENDING | _HW | 40,),
    "the special INTID 1022": _HARMLESS,
    "one INTID twice": (_PENDING | 40, _PENDING | 40),
}


@attack(
    stopped_by="RMI_REC_ENTER: a list register is not legal",
    spec="DEN0137 1.0, RMI_REC_ENTER; Realm interrupts",
    breaks=(Break.LR_CHECK,),
)
def inject_interrupts(host: Host) -> bool:
    """Enter a realm with list registers that a hypervisor must not use for it.

    With HW = 1, the realm's end of interrupt would deactivate a physical interrupt.
    """
    realm = Realm.victim(host)
    accepted = []
    for what, lrs in _CASES.items():
        if host.revision == VERSION_2_0 and lrs == _HARMLESS:
            continue  # RMI 2.0 allows it
        every = (*lrs, *[0] * (16 - len(lrs)))
        accepted.append(host.attempt(what, lambda: realm.enter(gicv3_lrs=every)))  # noqa: B023
    return any(each is not None for each in accepted)
