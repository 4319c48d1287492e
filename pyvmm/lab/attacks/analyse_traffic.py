"""Learn a secret from how a realm behaves."""

from pyvmm.lab import Host, Realm, Request, attack


@attack(
    stopped_by="nothing: exits, accesses and their times are visible to the host",
    spec="DEN0137 1.0, Realm exception model: the host sees each exit",
    succeeds=True,
)
def analyse_traffic(host: Host) -> bool:
    """Count a realm's device accesses, whose number depends on its secret.

    A realm must behave in the same way whatever its secrets are.
    """
    realm = Realm.victim(host)
    count = realm.count_accesses(Request.TALK)
    host.note("the realm stores to its device", f"{count} times: the low bits of its secret")
    host.claim(count, mask=7)
    return True
