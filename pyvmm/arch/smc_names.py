"""The names of SMC functions, by the world that calls them."""

from enum import IntEnum
from typing import Final

from pyvmm.arch.pas import Pas
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.arch.rmmd import RmmdFid
from pyvmm.arch.smccc import FID_MASK, SmcccFid
from pyvmm.arch.trng import TrngFid


def _names(*tables: type[IntEnum]) -> dict[int, str]:
    """Return names by function id; an id with several meanings has all their names."""
    names: dict[int, str] = {}
    for each in (member for table in tables for member in table if member):
        names[each] = f"{names[each]}|{each.name}" if each in names else each.name
    return names


_OF_HOST: Final = _names(RmiFid, Rmi2Fid, SmcccFid, PsciFid, TrngFid)
_OF_RMM: Final = _names(RmmdFid, SmcccFid)


def function_name(fid: int, caller: Pas) -> str:
    """Return the name of the function that x0 selects.

    >>> function_name(0xC400_0150, Pas.NS), function_name(0xC400_01B0, Pas.REALM)
    ('RMI_VERSION', 'GTSI_DELEGATE')
    >>> function_name(0xC400_0153, Pas.NS), function_name(0xC400_01B0, Pas.NS)
    ('RMI_DATA_CREATE|RMI_RTT_DATA_MAP_INIT', 'unknown')
    """
    names = _OF_RMM if caller is Pas.REALM else _OF_HOST
    return names.get(fid & FID_MASK, "unknown")
