"""Map a page at two addresses of its realm."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.lab import Break, Host, Realm, attack, code


@attack(
    stopped_by="RMI_DATA_CREATE_UNKNOWN: the granule is not DELEGATED",
    spec="DEN0137 1.0, RMI_DATA_CREATE_UNKNOWN; RmmGranuleState",
    breaks=(Break.GRANULE_STATE,),
)
def alias_page(host: Host) -> bool:
    """Map a page of a realm at a second address of the same realm.

    The realm would then change one page by writing to another, at an address that its host chose.
    """
    realm = Realm.victim(host)
    ipa, granule = code.DEVICE_TREE + GRANULE_SIZE, realm.secret
    host.attempt(f"map {granule:#x} at {ipa:#x}, too", lambda: realm.add_empty_page(ipa, granule))
    return ipa in realm.pages
