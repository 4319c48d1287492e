"""Lesson 5: the granule protection table."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Final, cast

from monitor.monitor import Monitor
from pyvmm.arch.gpt import Gpi
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RmiFid
from pyvmm.core import Machine
from pyvmm.lab.exercise import Case, case, exercise, wanted
from rmm.rmi import REVISIONS
from rmm.rmm import Rmm

_DRAM: Final = 0xB000_0000
_DRAM_SIZE: Final = 64 << 20

TEMPLATE: Final = '''
def gpi(read, table, pa):
    """Return the GPI of the granule at a physical address."""
    return 0
'''

GetGpi = Callable[[Callable[[int], int], int, int], int]


@exercise(5, TEMPLATE)
def protection(module: ModuleType) -> Iterator[Case]:
    """Look up a granule in the granule protection table.

    Define gpi(read, table, pa).  `read(pa)` returns 8 bytes of Root memory as a number; `table` is
    the address of the level 0 table.  An entry of level 0 covers 1 GiB.  If its bits [3:0] are 1,
    it is a block: bits [7:4] are the GPI of all of it.  If they are 3, bits [47:12] are the address
    of a level 1 table.

    An entry of level 1 covers 64 KiB.  If its bits [3:0] are 1, bits [7:4] are the GPI of all
    granules, as the entry is part of a larger contiguous region.  Otherwise it is 16 nibbles, one
    per granule; the lowest nibble belongs to the lowest address.

    A GPI of 0x9 is Non-secure, 0xA Root, 0xB Realm, 0 nobody's.
    """
    get = cast("GetGpi", wanted(module, "gpi"))
    machine, monitor = _platform()
    root, base = machine.memory(Pas.ROOT), monitor.gpt.base_pa

    def read(pa: int) -> int:
        return int.from_bytes(root.read(pa, 8), "little")

    for what, pa in (
        ("a granule of the host", _DRAM),
        ("a delegated granule", _DRAM + 5 * GRANULE_SIZE),
        ("its neighbor below", _DRAM + 4 * GRANULE_SIZE),
        ("the last byte of a delegated granule", _DRAM + 0x2F_FFFF),
        ("a delegated block of 2 MiB", _DRAM + (4 << 20) + 0x12345),
        ("the host's memory behind it", _DRAM + (6 << 20)),
        ("the RMM", monitor.layout.rmm_base),
        ("the Monitor", monitor.layout.root_base),
    ):
        yield case(f"{what}, {pa:#x}", int(monitor.gpi(pa)), partial(get, read, base, pa))
    yield case("the devices below DRAM, 0x1000", int(Gpi.NS), lambda: get(read, base, 0x1000))
    yield case("an address above DRAM, 0xC0000000", 0, lambda: get(read, base, 0xC000_0000))


def _platform() -> tuple[Machine, Monitor]:
    machine = Machine(_DRAM, _DRAM_SIZE, 1)
    monitor = Monitor(machine)
    monitor.boot(Rmm(machine, monitor.conduit(Pas.REALM), REVISIONS))
    smc = monitor.conduit(Pas.NS).smc
    block = range(_DRAM + (4 << 20), _DRAM + (6 << 20), GRANULE_SIZE)
    for pa in (_DRAM + 5 * GRANULE_SIZE, _DRAM + 0x2F_F000, *block):
        smc(0, (RmiFid.RMI_GRANULE_DELEGATE, pa))
    return machine, monitor
