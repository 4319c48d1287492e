"""Swap a page between its measurement and its copy."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiFid
from pyvmm.lab import IMAGE, Host, Realm, Request, attack, code


@attack(
    stopped_by="RMI_DATA_CREATE measures the copy that the realm gets",
    spec="DEN0137 1.0, RMI_DATA_CREATE",
)
def swap_source(host: Host) -> bool:
    """Change the source of a page, with a device, after the RMM has measured it."""
    realm = Realm.create(host)
    end = code.DEVICE_TREE + GRANULE_SIZE
    host.rmi(RmiFid.RMI_RTT_INIT_RIPAS, realm.rd, code.CODE, end)
    source, data = host.granule(IMAGE[code.CODE]), host.delegated()
    window = host.device().view(source, GRANULE_SIZE)
    realm.add_source(code.CODE, data, source)
    window[:] = bytes(GRANULE_SIZE)
    host.note("a device overwrites the source at once")
    for ipa in (code.SECRET, code.BUFFER):
        realm.add_empty_page(ipa)
    realm.share()
    realm.add_rec()
    realm.activate()
    realm.start()
    host.announce(realm.rd, realm.rec)
    answer = realm.ask(Request.CHECK)
    host.note("the realm runs the measured code", f"answer {answer}")
    return answer != 1
