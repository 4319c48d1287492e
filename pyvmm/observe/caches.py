"""What a PE has cached: translations in its TLBs, and decoded and translated code."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from pyvmm.arch.disassembly import INSTRUCTION, disassemble
from pyvmm.arch.pas import GRANULE_SHIFT, GRANULE_SIZE, Pas
from pyvmm.arch.pictures import CodePage, CodePicture, CodeRow, TlbPicture, TlbRun
from pyvmm.core.machine import Machine
from pyvmm.core.views import (
    SLOTS,
    SlotState,
    TlbEntry,
    TlbFlag,
    TlbLevel,
    view_code,
    view_slots,
    view_tlbs,
)
from pyvmm.observe.memory import Dram

_LEVELS: Final = {
    TlbLevel.DATA: "data",
    TlbLevel.FETCHES: "fetches",
    TlbLevel.SECOND: "second level",
    TlbLevel.STAGE2: "stage 2",
}
_REGIMES: Final = ("EL0", "EL1", "EL1 PAN", "EL0", "EL1")
_ACCESSES: Final = {TlbFlag.READ: "r", TlbFlag.WRITE: "w", TlbFlag.EXECUTE: "x"}


def tlb_picture(machine: Machine, pe: int) -> TlbPicture:
    """Return the TLBs of a PE."""
    entries, pending = view_tlbs(machine, pe)
    counts = Counter(_LEVELS[each.level] for each in entries)
    return TlbPicture(index=pe, pending=pending, entries=dict(counts), runs=list(_runs(entries)))


def _runs(entries: list[TlbEntry]) -> Iterator[TlbRun]:
    """Yield entries in a row as one."""
    first, pages = None, 0
    for entry in sorted(entries):
        if first is not None and entry == _next(first, pages):
            pages += 1
            continue
        if first is not None:
            yield _run(first, pages)
        first, pages = entry, 1
    if first is not None:
        yield _run(first, pages)


def _next(first: TlbEntry, pages: int) -> TlbEntry:
    size = pages << GRANULE_SHIFT
    return first._replace(va=first.va + size, pa=first.pa + size)


def _run(entry: TlbEntry, pages: int) -> TlbRun:
    is_global = TlbFlag.NOT_GLOBAL not in entry.flags
    has_asid = entry.level == TlbLevel.SECOND and not is_global
    return TlbRun(
        level=_LEVELS[entry.level],
        regime="" if entry.level == TlbLevel.STAGE2 else _REGIMES[entry.regime],
        va=hex(entry.va),
        pages=pages,
        pa=hex(entry.pa),
        pas=entry.pas.name,
        access="".join(letter for flag, letter in _ACCESSES.items() if flag in entry.flags),
        asid=entry.asid if has_asid else None,
        is_global=is_global,
        block=1 << entry.shift if entry.shift else 0,
    )


def code_picture(
    machine: Machine, dram: Dram, pe: int, va: int, place: tuple[int, Pas] | None
) -> CodePicture:
    """Return the code that a PE has executed, and the page at ``va``, whose PA is ``place``."""
    pages = sorted(view_code(machine, pe), key=lambda page: (-page.translated, -page.decoded))
    return CodePicture(
        index=pe,
        pages=[CodePage(hex(each.pa), each.pas.name, *each[2:]) for each in pages],
        address=hex(va & -GRANULE_SIZE),
        rows=[] if place is None else list(_rows(machine, dram, pe, va & -GRANULE_SIZE, place)),
    )


def _rows(
    machine: Machine, dram: Dram, pe: int, va: int, place: tuple[int, Pas]
) -> Iterator[CodeRow]:
    pa, pas = place[0] & -GRANULE_SIZE, place[1]
    data = dram.read(pas, pa, GRANULE_SIZE)
    if len(data) != GRANULE_SIZE:
        return
    slots = view_slots(machine, pe, pas, pa)
    code = memoryview(data).cast("I")
    words = {va + INSTRUCTION * n: code[n] for n in range(SLOTS) if slots[n][0]}
    executed = (slot for slot in slots if slot[0])
    for (address, word), text, (state, count) in zip(
        words.items(), disassemble(words), executed, strict=True
    ):
        yield CodeRow(f"{address:#018x}", f"{word:08x}", text, _name(state), count)


def _name(state: SlotState) -> str:
    if SlotState.REGION in state:
        return "region"
    return "translated" if SlotState.TRANSLATED in state else "decoded"
