"""Show a realm another time."""

import time

from pyvmm.lab import Host, Realm, Request, attack


@attack(
    stopped_by="CNTVOFF_EL2 is the RMM's: the realm reads the machine's counter",
    spec="DEN0137 1.0, Realm timers; Arm DDI 0487, CNTVCT_EL0",
)
def lie_about_time(host: Host) -> bool:
    """Make a realm believe that no time has passed, so that an expired certificate is valid.

    Time between entries passes for the realm, too.  The date is another matter: a real-time clock
    is a device of the host, and its word.
    """
    realm = Realm.victim(host)
    times = []
    for _ in range(2):
        before = host.hardware.counter()
        told = realm.ask(Request.TIME)
        times.append(before <= told <= host.hardware.counter())
        time.sleep(0.02)
    host.note("ask the realm for the time twice, with a pause", f"right: {all(times)}")
    return not all(times)
