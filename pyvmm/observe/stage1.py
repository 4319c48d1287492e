"""One table of stage 1 at a time: the guest writes them, so there may be any number."""

from collections.abc import Iterator
from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.errors import UserError
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.pictures import Stage1Picture, Stage1Run
from pyvmm.arch.stage1 import S1_DESCRIPTOR
from pyvmm.observe.memory import Dram
from pyvmm.observe.walk import Half, fields_of, half_of, kind_of, walk_ipa, walk_va

_ENTRY: Final = 8  # bytes


def stage1_picture(
    dram: Dram, context: PeContext, pe: int, va: int, level: int | None
) -> Stage1Picture:
    """Return the table that translates ``va`` at a level, by default the first one.

    Raises:
        UserError: there is no such table.
    """
    half = half_of(context, va)
    if half is None:
        raise UserError(f"{va:#x} is in no half of the address space that PE {pe} translates")
    start = half.geometry.start_level
    if level is None:
        level = start
    table, last = half.table, start
    for step in walk_va(dram, context, va).steps:
        if step.stage == 1 and step.kind == "table" and step.level < level:
            table, last = int(step.output, 16), step.level + 1
    if last != level:
        raise UserError(f"{va:#x} has no table of level {level} on PE {pe}")
    place = walk_ipa(dram, context, table)
    bits = half.geometry.address_bits if level == start else half.geometry.shift(level - 1)
    first = va >> bits << bits & MASK64
    return Stage1Picture(
        pe=pe,
        register="TTBR1_EL1" if half.is_high else "TTBR0_EL1",
        level=level,
        va=hex(first),
        ipa=hex(table),
        pa=None if place.pa is None else hex(place.pa),
        runs=list(_runs(_entries(dram, context, table, bits, half, level), half, level, first)),
    )


def _entries(
    dram: Dram, context: PeContext, table: int, bits: int, half: Half, level: int
) -> Iterator[int]:
    """Yield the entries of a table, up to where it has no memory."""
    size = _ENTRY << bits - half.geometry.shift(level)
    while size > 0:
        place = walk_ipa(dram, context, table)
        part = min(size, GRANULE_SIZE - table % GRANULE_SIZE)
        if place.pa is None or place.pas is None:
            return
        data = dram.read(place.pas, place.pa, part)
        for at in range(0, len(data), _ENTRY):
            yield int.from_bytes(data[at : at + _ENTRY], "little")
        if len(data) != part:
            return
        table, size = table + part, size - part


def _runs(entries: Iterator[int], half: Half, level: int, first: int) -> Iterator[Stage1Run]:
    """Yield entries in a row that are alike but for their addresses as one; tables singly."""
    size = 1 << half.geometry.shift(level)
    start, descriptor, count = 0, 0, 0
    for index, entry in enumerate(entries):
        if count and _continues(descriptor, count, entry, level, size):
            count += 1
            continue
        if count:
            yield _run(start, count, descriptor, half, level, first)
        start, descriptor, count = index, entry, 1
    if count:
        yield _run(start, count, descriptor, half, level, first)


def _continues(descriptor: int, count: int, entry: int, level: int, size: int) -> bool:
    kind = kind_of(descriptor, level)
    if kind == "invalid":
        return kind_of(entry, level) == "invalid"
    return kind != "table" and entry == descriptor + count * size


def _run(index: int, count: int, descriptor: int, half: Half, level: int, first: int) -> Stage1Run:
    kind, shift = kind_of(descriptor, level), half.geometry.shift(level)
    unit = half.geometry.granule_bits if kind == "table" else shift
    output = descriptor & S1_DESCRIPTOR.OA.mask & -(1 << unit)
    return Stage1Run(
        va=hex(first + (index << shift) & MASK64),
        index=index,
        count=count,
        size=count << shift,
        kind=kind,
        output="" if kind == "invalid" else hex(output),
        descriptor=f"{descriptor:#018x}",
        fields=fields_of(1, descriptor, kind),
    )
