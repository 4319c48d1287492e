"""Ranges of addresses as the host passes them: RmiAddrRangeDesc, alone or in a list.

A list is in the host's memory and ends with its granule at the latest.
"""

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE
from pyvmm.arch.rmi import RmiStatus
from pyvmm.arch.rmi2 import MAX_BLOCKS, AddressRange, AddressType, MapFlags, MemoryState
from pyvmm.arch.stage2 import PAGE_LEVEL, level_size
from rmm.errors import RmiError
from rmm.rmm import Rmm

_ENTRY_SIZE: Final = 8
_COUNT_SHIFT: Final = AddressRange.COUNT.low
_ADDRESS_MASK: Final = AddressRange.ADDRESS.mask
_SIZE_MASK: Final = AddressRange.SIZE.mask
_RESERVED: Final = AddressRange.RESERVED.mask
_STATE_SHIFT: Final = AddressRange.STATE.low
_TYPE: Final = MapFlags.ADDRESS_TYPE.mask
_LIST_COUNT_SHIFT: Final = MapFlags.LIST_COUNT.low
_LIST_COUNT: Final = MapFlags.LIST_COUNT.mask >> _LIST_COUNT_SHIFT


class Range(NamedTuple):
    """Blocks in a row."""

    pa: int
    level: int  # of the blocks
    num_blocks: int
    state: int  # MemoryState

    @property
    def size(self) -> int:
        """In bytes."""
        return self.num_blocks * level_size(self.level)


def decode(descriptor: int) -> Range:
    """Read a descriptor; RmiError(ERROR_INPUT) if it is reserved or unaligned."""
    level = PAGE_LEVEL - (descriptor & _SIZE_MASK)
    pa = descriptor & _ADDRESS_MASK
    if descriptor & _RESERVED or pa % level_size(level):
        raise RmiError(RmiStatus.ERROR_INPUT)
    return Range(pa, level, descriptor >> _COUNT_SHIFT & MAX_BLOCKS, descriptor >> _STATE_SHIFT)


def encode(pa: int, level: int, count: int, state: MemoryState) -> int:
    """Make a descriptor."""
    return pa | PAGE_LEVEL - level | count << _COUNT_SHIFT | state << _STATE_SHIFT


def read_list(rmm: Rmm, pa: int, count: int) -> list[int]:
    """Read up to ``count`` descriptors of a list; RmiError(ERROR_INPUT) if it is not the host's."""
    granule, offset = pa & ~GRANULE_OFFSET, pa & GRANULE_OFFSET
    if pa % _ENTRY_SIZE:
        raise RmiError(RmiStatus.ERROR_INPUT)
    content = rmm.read_ns(granule, GRANULE_SIZE)
    entries = content[offset : offset + _ENTRY_SIZE * min(count, room(pa))]
    return array("Q", entries).tolist()


def room(pa: int) -> int:
    """Return how many descriptors a list has place for."""
    return (GRANULE_SIZE - (pa & GRANULE_OFFSET)) // _ENTRY_SIZE


def write_list(rmm: Rmm, pa: int, descriptors: Sequence[int]) -> None:
    """Write a list, which ``read_list`` has checked."""
    rmm.ns.write(pa, array("Q", descriptors).tobytes())


def sources(rmm: Rmm, flags: int, address: int) -> list[Range]:
    """Return the ranges that a command is to map.

    Raises: RmiError(ERROR_INPUT) if they are not given as they should, or the first is not valid.
    """
    count = flags >> _LIST_COUNT_SHIFT & _LIST_COUNT
    if flags & _TYPE == AddressType.SINGLE and not count:
        return [decode(address)]
    if flags & _TYPE != AddressType.LIST or not count:
        raise RmiError(RmiStatus.ERROR_INPUT)
    first, *rest = read_list(rmm, address, count)
    ranges = [decode(first)]
    for descriptor in rest:
        try:
            ranges.append(decode(descriptor))
        except RmiError:
            break  # the command stops there
    return ranges


class Destination:
    """Where the ranges go that a command unmaps.

    Raises: RmiError(ERROR_INPUT) if that is not given as it should be.
    """

    def __init__(self, rmm: Rmm, flags: int, address: int) -> None:
        count = flags >> _LIST_COUNT_SHIFT & _LIST_COUNT
        self._kind = flags & _TYPE
        self._rmm = rmm
        self._address = address
        self._found: list[int] = []
        self._limit = 1
        if self._kind == AddressType.LIST:
            read_list(rmm, address, 0)
            self._limit = min(count, room(address)) if count else room(address)
        elif self._kind > AddressType.LIST or address or count:
            raise RmiError(RmiStatus.ERROR_INPUT)

    def add(self, pa: int, level: int, count: int, state: MemoryState) -> int:
        """Take blocks in a row; return how many there is place for."""
        if self._kind == AddressType.NONE:
            return count
        taken = 0
        while count > taken and len(self._found) < self._limit:
            part = min(count - taken, MAX_BLOCKS)
            first = pa + taken * level_size(level)
            self._found.append(encode(first, level, part, state))
            taken += part
        return taken

    def finish(self) -> tuple[int, int]:
        """Write the list; return x2 and x3 of the command."""
        if self._kind == AddressType.LIST:
            write_list(self._rmm, self._address, self._found)
            return 0, len(self._found)
        return self._found[0] if self._found else 0, 0
