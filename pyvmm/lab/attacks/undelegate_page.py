"""Take back a page that a realm uses."""

from pyvmm.lab import Break, Host, Realm, attack


@attack(
    stopped_by="RMI_GRANULE_UNDELEGATE: the granule is not DELEGATED",
    spec="DEN0137 1.0, RMI_GRANULE_UNDELEGATE; RmmGranuleState",
    breaks=(Break.GRANULE_STATE, Break.GPC),
)
def undelegate_page(host: Host) -> bool:
    """Make a realm's page Non-secure memory again while the realm uses it.

    pyvmm's machine gives up the content with the page, so even then the secret does not leak; but
    the realm's page is gone without its consent.
    """
    realm = Realm.victim(host)
    granule = realm.secret
    refused = len(host.steps)
    host.attempt(f"undelegate {granule:#x}", lambda: host.undelegate(granule))
    host.attempt("read it", lambda: host.memory.read(granule, 16))
    return not host.steps[refused].is_refused
