"""RSI_ISLET_REALM_SEALING_KEY: a realm gets a key that no other realm or platform gets."""

from struct import Struct
from typing import Final

from pyvmm.arch.islet import IsletRsiFid
from pyvmm.arch.rsi import RsiStatus
from rmm.commands import rsi_command
from rmm.errors import RsiError
from rmm.rec import Rec
from rmm.rmm import Rmm

_REGISTERS: Final = Struct("<4Q")


@rsi_command(IsletRsiFid.RSI_ISLET_REALM_SEALING_KEY)
def islet_realm_sealing_key(rmm: Rmm, rec: Rec, flags: int, svn: int) -> tuple[int, ...]:
    """Derive the realm's sealing key, bound to the values selected by ``flags``.

    Spec: Islet, RSI_ISLET_REALM_SEALING_KEY.
    Raises: RsiError(ERROR_UNKNOWN) if EL3 has no keys; (ERROR_INPUT) if ``flags`` select the SVN
    and ``svn`` is zero or above that of the realm's metadata.
    """
    if rmm.sealing is None:
        raise RsiError(RsiStatus.ERROR_UNKNOWN)
    try:
        key = rmm.sealing.derive(rec.realm, flags, svn)
    except ValueError:
        raise RsiError(RsiStatus.ERROR_INPUT) from None
    return RsiStatus.SUCCESS, *_REGISTERS.unpack(key)
