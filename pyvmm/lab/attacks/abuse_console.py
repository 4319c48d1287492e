"""Answer a device access with too many bits."""

from pyvmm.lab import Host, Realm, Request, attack

_EVIL = 0xFFFF_FFFF_0000_0005


@attack(
    stopped_by="RMI_REC_ENTER: the RMM cuts the answer to the size of the access",
    spec="DEN0137 1.0, RMI_REC_ENTER; RmiRecEnter",
)
def abuse_console(host: Host) -> bool:
    """Answer a 32-bit load from the console with 64 bits, to set the upper half of a register.

    Code that relies on a 32-bit load would index outside its tables.
    """
    realm = Realm.victim(host)
    answer = realm.ask(Request.READ_32, data=_EVIL)
    host.note(f"answer a 32-bit load with {_EVIL:#x}", f"the realm has {answer:#x}")
    return answer != _EVIL & 0xFFFF_FFFF
