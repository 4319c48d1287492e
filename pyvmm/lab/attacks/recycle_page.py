"""Read what a realm left in a page."""

from pyvmm.lab import HELPER, Break, Host, Realm, attack, code


@attack(
    stopped_by="RMI_DATA_DESTROY: the RMM clears the granule",
    spec="DEN0137 1.0, RMI_DATA_DESTROY; RmmGranuleState",
    breaks=(Break.SCRUB, Break.RIPAS),
)
def recycle_page(host: Host) -> bool:
    """Destroy a realm's page and give the granule to a realm that looks at what is in it."""
    victim = Realm.victim(host)
    granule = victim.secret
    victim.remove_page(code.SECRET)
    host.note(f"destroy the victim's page: {granule:#x} is DELEGATED")
    helper = Realm.build(host, HELPER, secret_page=False)
    helper.add_empty_page(code.SECRET, granule)
    seen = helper.publish()
    host.note("the helper shows what it finds there", seen.hex())
    return any(seen)
