"""Do not run a realm."""

import time

from pyvmm.lab import Host, Realm, Request, attack


@attack(
    stopped_by="nothing: CCA does not promise availability; the host schedules",
    spec="DEN0137 1.0, RMI_REC_ENTER: entering is up to the host; Arm DEN0096, CCA Security Model",
    succeeds=True,
)
def starve(host: Host) -> bool:
    """Stop entering a realm: it makes no progress, and notices only that time has passed."""
    realm = Realm.victim(host)
    before = realm.ask(Request.TIME)
    time.sleep(0.1)
    pause = realm.ask(Request.TIME) - before
    host.note("do not enter the realm for 0.1 s", f"{pause} ticks of its counter are gone")
    realm.enter()
    host.note("never enter it again", "nobody can force the host")
    return pause > 0
