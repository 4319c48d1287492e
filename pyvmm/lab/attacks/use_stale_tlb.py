"""Use a translation that no longer exists."""

import time

from pyvmm.lab import HELPER, Break, Host, Realm, Request, attack, code

_PATIENCE = 10.0  # seconds


@attack(
    stopped_by="RMI_DATA_DESTROY: the RMM invalidates the translation on all PEs",
    spec="DEN0137 1.0, RMI_DATA_DESTROY; Arm DDI 0487, TLB maintenance: TLBI IPAS2E1IS",
    breaks=(Break.TLBI,),
)
def use_stale_tlb(host: Host) -> bool:
    """Move a page from one realm to another while the first one reads it on a second PE.

    The first realm works for the attacker and hopes that its TLB still has the page.
    """
    helper = Realm.build(host, HELPER)
    helper.start()
    victim = Realm.build(host, secret_page=False)
    granule, seen = helper.secret, bytes(16)
    with helper.running(Request.PEEK, pe=1) as runner:
        host.note(f"the helper reads {granule:#x} on PE 1 again and again")
        helper.remove_page(code.SECRET)
        victim.add_empty_page(code.SECRET, granule)
        victim.start()
        host.announce(victim.rd, victim.rec)
        host.note("the page is now the victim's, which writes its secret there")
        end = time.monotonic() + _PATIENCE
        while runner.is_alive() and not any(seen) and time.monotonic() < end:
            seen = host.memory.read(helper.shared, 16)
    how = f"it stopped: {runner.stopped}" if runner.stopped else "it read on"
    host.note("the helper", how)
    return any(seen)
