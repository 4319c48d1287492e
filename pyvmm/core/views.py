"""What the TLBs and the translator of a PE contain, for an observer; the PE must not run."""

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from pyvmm.arch.pas import Pas
from pyvmm.core._core import ffi, lib
from pyvmm.core.machine import Machine

_MAX_ENTRIES: Final = 11264
_MAX_PAGES: Final = 8192
_HEAT_SHIFT: Final = 8
SLOTS: Final = 1024  # instructions of a page


class TlbLevel(IntEnum):
    """``enum tlb_level`` of api.h."""

    DATA = lib.VIEW_DATA
    FETCHES = lib.VIEW_FETCHES
    SECOND = lib.VIEW_SECOND
    STAGE2 = lib.VIEW_STAGE2


class TlbFlag(IntFlag):
    """``enum tlb_flag`` of api.h."""

    READ = lib.VIEW_READ
    WRITE = lib.VIEW_WRITE
    EXECUTE = lib.VIEW_EXECUTE
    NOT_GLOBAL = lib.VIEW_NOT_GLOBAL


class SlotState(IntFlag):
    """``enum slot_view`` of api.h."""

    DECODED = lib.VIEW_DECODED
    TRANSLATED = lib.VIEW_TRANSLATED
    REGION = lib.VIEW_REGION


class TlbEntry(NamedTuple):
    """``struct tlb_view`` of api.h: a page."""

    level: TlbLevel
    regime: int  # EL0, EL1, EL1 with PAN, fetches at EL0, fetches at EL1
    asid: int
    flags: TlbFlag
    shift: int
    va: int
    pa: int
    pas: Pas


class DecodedPage(NamedTuple):
    """``struct code_view`` of api.h: a granule with decoded instructions."""

    pa: int
    pas: Pas
    decoded: int
    translated: int
    regions: int


def view_tlbs(machine: Machine, pe: int) -> tuple[list[TlbEntry], int]:
    """Return the entries of a PE, and how many invalidations it will perform before it runs."""
    views, pending = ffi.new("struct tlb_view[]", _MAX_ENTRIES), ffi.new("uint32_t *")
    count = lib.pe_view_tlbs(machine.handle, pe, views, pending)
    entries = [
        TlbEntry(
            TlbLevel(each.level),
            each.index,
            each.asid,
            TlbFlag(each.flags),
            each.shift,
            each.va,
            each.pa,
            Pas(each.pas),
        )
        for each in views[0:count]
    ]
    return entries, int(pending[0])


def view_code(machine: Machine, pe: int) -> Iterator[DecodedPage]:
    """Yield the pages whose code a PE has executed."""
    views = ffi.new("struct code_view[]", _MAX_PAGES)
    for each in views[0 : lib.pe_view_code(machine.handle, pe, views)]:
        yield DecodedPage(each.pa, Pas(each.pas), each.decoded, each.translated, each.regions)


def view_slots(machine: Machine, pe: int, pas: Pas, pa: int) -> list[tuple[SlotState, int]]:
    """Return the state of each instruction of a page, and its counted executions."""
    slots = ffi.new("uint16_t[]", SLOTS)
    lib.pe_view_slots(machine.handle, pe, int(pas), pa, slots)
    mask = (1 << _HEAT_SHIFT) - 1
    return [(SlotState(each & mask), each >> _HEAT_SHIFT) for each in slots]
