"""Put shared memory at a private address."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.lab import Host, Realm, attack, code


@attack(
    stopped_by="RMI_RTT_MAP_UNPROTECTED: the IPA is in the protected half",
    spec="DEN0137 1.0, RMI_RTT_MAP_UNPROTECTED",
)
def share_private_page(host: Host) -> bool:
    """Map the host's memory where the realm expects memory of its own.

    The realm would write to it as to its own memory.
    """
    realm = Realm.victim(host)
    ipa = code.DEVICE_TREE + GRANULE_SIZE
    page = host.granule(bytes(16))
    host.attempt(f"map {page:#x} at {ipa:#x}", lambda: realm.map_shared(ipa, page))
    return not host.steps[-1].is_refused
