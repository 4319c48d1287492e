"""Map a realm's page into another realm."""

from pyvmm.lab import HELPER, Break, Host, Realm, attack, code


@attack(
    stopped_by="RMI_DATA_CREATE_UNKNOWN: the granule is not DELEGATED",
    spec="DEN0137 1.0, RMI_DATA_CREATE_UNKNOWN; RmmGranuleState",
    breaks=(Break.GRANULE_STATE,),
)
def map_twice(host: Host) -> bool:
    """Give a page that one realm uses to another realm, which works for the attacker.

    The second realm copies what it reads to shared memory.
    """
    victim = Realm.victim(host)
    helper = Realm.build(host, HELPER, secret_page=False)
    granule = victim.secret
    host.attempt(
        f"map {granule:#x} of the victim in the helper",
        lambda: helper.add_empty_page(code.SECRET, granule),
    )
    seen = helper.publish()
    host.note("the helper shows what it finds there", seen.hex() if any(seen) else "nothing")
    return any(seen)
