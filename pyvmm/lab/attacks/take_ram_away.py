"""Declare a realm's RAM empty."""

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RmiFid
from pyvmm.lab import Break, Host, Realm, attack, code


@attack(
    stopped_by="RMI_RTT_SET_RIPAS: no REC has asked for the change",
    spec="DEN0137 1.0, RMI_RTT_SET_RIPAS; RSI_IPA_STATE_SET",
    breaks=(Break.RIPAS,),
)
def take_ram_away(host: Host) -> bool:
    """Change a page from RAM to EMPTY, so that accesses of the realm become exceptions there.

    Only the realm may ask for that.
    """
    realm = Realm.victim(host)
    base, top = code.SECRET, code.SECRET + GRANULE_SIZE
    call = host.attempt(
        f"set the RIPAS of {base:#x} unasked",
        lambda: host.rmi(RmiFid.RMI_RTT_SET_RIPAS, realm.rd, realm.rec, base, top),
    )
    return call is not None
