"""TLBs, and code as the interpreter and the translator know it, as text."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.text import Text

from pyvmm.arch.disassembly import INSTRUCTION
from pyvmm.arch.pictures import CodePicture, CodeRow, TlbPicture, TlbRun
from pyvmm.cli.common.units import size
from pyvmm.cli.pictures.canvas import DIM, HEADING, line, style_of

_GRANULE: Final = 4096
_MAX_RUNS: Final = 40  # of a level
_MAX_PAGES: Final = 20
#: The mark of an instruction by its state, and the style of its text.
_STATES: Final = {"region": ("▶", "bold"), "translated": ("│", ""), "decoded": ("·", DIM)}


def tlb_lines(pictures: Sequence[TlbPicture]) -> Iterator[Text]:
    """Yield the cached translations of each PE."""
    for picture in pictures:
        counts = ", ".join(f"{level} {count}" for level, count in picture.entries.items())
        yield line((f"PE {picture.index} ", HEADING), f"entries: {counts or 'none'}")
        if picture.pending:
            yield Text(f"  invalidations before its next instruction: {picture.pending}")
        for level, group in groupby(picture.runs, lambda run: run.level):
            runs = list(group)
            yield Text(f"  {level}", HEADING)
            for run in runs[:_MAX_RUNS]:
                yield _run(run)
            if len(runs) > _MAX_RUNS:
                yield Text(f"    and {len(runs) - _MAX_RUNS} more: see --json", DIM)


def _run(run: TlbRun) -> Text:
    owner = "" if run.asid is None else f"ASID {run.asid}"
    owner = "global" if run.is_global and run.regime else owner
    block = f"part of a block of {size(run.block)}" if run.block else ""
    notes = ", ".join(note for note in (owner, block) if note)
    return line(
        f"    {run.regime:<8}{run.va:>18} {size(run.pages * _GRANULE):>10} {run.access:<3} "
        f"-> {run.pa:>14} ",
        (f"{run.pas:<6}", style_of(run.pas)),
        (f" {notes}" if notes else "", DIM),
    )


def code_lines(picture: CodePicture) -> Iterator[Text]:
    """Yield the pages that were executed, and the instructions of one of them."""
    yield line((f"PE {picture.index} ", HEADING), f"has executed code of {_pages(picture)}")
    for page in picture.pages[:_MAX_PAGES]:
        counts = f"{page.decoded} instructions, {page.translated} translated in {page.regions}"
        yield line(
            f"  {page.pa:>14} ", (f"{page.pas:<6}", style_of(page.pas)), f" {counts} regions"
        )
    if len(picture.pages) > _MAX_PAGES:
        yield Text(f"  and {len(picture.pages) - _MAX_PAGES} more: see --json", DIM)
    yield line(("code ", HEADING), f"at {picture.address}")
    if not picture.rows:
        yield Text("  it has executed no instruction there", DIM)
        return
    marks = {"region": "a region begins", "translated": "translated", "decoded": "only decoded"}
    yield Text("  " + "  ".join(f"{_STATES[state][0]} {text}" for state, text in marks.items()))
    yield from _listing(picture.rows)


def _pages(picture: CodePicture) -> str:
    count = len(picture.pages)
    return f"{count} page{'' if count == 1 else 's'}"


def _listing(rows: Sequence[CodeRow]) -> Iterator[Text]:
    """Yield instructions, and gaps of those that were not executed."""
    expected = int(rows[0].address, 16)
    for row in rows:
        address = int(row.address, 16)
        if address != expected:
            yield Text(f"    {(address - expected) // INSTRUCTION} not executed", DIM)
        mark, style = _STATES[row.state]
        count = f"  executed {row.executions} times" if row.executions else ""
        text = f"{row.address}  {row.word}  {row.text:<32}"
        yield line(f"  {mark} ", (text, style), (count, DIM))
        expected = address + INSTRUCTION
