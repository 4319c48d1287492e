"""The GPT and single granules as text."""

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from pyvmm.arch.pictures import GptPicture, GranulePicture, Region
from pyvmm.cli.common.units import size
from pyvmm.cli.pictures.canvas import BAD, DIM, HEADING, MIXED, WORLDS, line, style_of

_COLUMNS: Final = 64
_MAX_ROWS: Final = 32
_GRANULE: Final = 4096
_FREE: Final = frozenset({"UNDELEGATED", "NOT_DRAM"})
_MAX_USES: Final = 40


def gpt_lines(picture: GptPicture) -> Iterator[Text]:
    """Yield the map of DRAM, its regions, and what the RMM uses."""
    yield line(("granule protection table ", HEADING), f"at {picture.table} in Root memory")
    yield line(f"GPCCR_EL3 {picture.gpccr}")
    yield from _map(picture)
    yield Text("")
    yield Text("regions", HEADING)
    for region in picture.regions:
        yield _region(region)
    yield Text("")
    yield Text("the RMM's books", HEADING)
    counts = (f"{state} {count}" for state, count in picture.states.items())
    yield line("  granules: ", "  ".join(counts))
    used = [use for use in picture.uses if use.state not in _FREE]
    for use in used[:_MAX_USES]:
        yield line(f"  {use.base:>14}  {size(use.size):>10}  {use.state}")
    if len(used) > _MAX_USES:
        yield Text(f"  and {len(used) - _MAX_USES} more: see --json", DIM)
    yield Text("")
    yield from _differences(picture)


def _map(picture: GptPicture) -> Iterator[Text]:
    cell = _GRANULE
    while picture.dram_size > cell * _COLUMNS * _MAX_ROWS:
        cell *= 2
    cells = _cells(picture, cell)
    yield line(f"one cell is {size(cell)}: ", *_legend(picture))
    base = int(picture.dram_base, 16)
    for start in range(0, len(cells), _COLUMNS):
        yield line(f"  {base + start * cell:#14x} ", *cells[start : start + _COLUMNS])


def _cells(picture: GptPicture, cell: int) -> list[tuple[str, str]]:
    """Return character and style of each cell: those of its GPI, or of a mixture."""
    found: list[set[str]] = [set() for _ in range(-(-picture.dram_size // cell))]
    base = int(picture.dram_base, 16)
    for region in picture.regions:
        start = int(region.base, 16) - base
        for index in range(start // cell, (start + region.size - 1) // cell + 1):
            found[index].add(region.gpi)
    return [_cell(gpis) for gpis in found]


def _cell(gpis: set[str]) -> tuple[str, str]:
    style, character = MIXED if len(gpis) > 1 else WORLDS[next(iter(gpis))]
    return character, style


def _legend(picture: GptPicture) -> Iterator[tuple[str, str]]:
    for gpi, count in picture.granules.items():
        style, character = WORLDS[gpi]
        yield f"{character} {gpi} ({count} granules)  ", style
    yield f"{MIXED[1]} several", MIXED[0]


def _region(region: Region) -> Text:
    where = f"  {region.base:>14}  {size(region.size):>10}  "
    return line(where, (f"{region.gpi:<9}", style_of(region.gpi)), f" {region.form}")


def _differences(picture: GptPicture) -> Iterator[Text]:
    if not picture.num_differences:
        yield Text("the table and the RMM's books agree on every granule")
        return
    count = picture.num_differences
    yield Text(f"THE TABLE AND THE RMM'S BOOKS DIFFER ON {count} GRANULES", BAD)
    for each in picture.differences:
        yield line(f"  {each.pa:>14}  table {each.gpi}, books {each.state}")


def granule_lines(picture: GranulePicture) -> Iterator[Text]:
    """Yield what is known of a granule."""
    yield line(("granule ", HEADING), picture.pa)
    yield line("  GPI     ", (picture.gpi, style_of(picture.gpi)))
    yield line(f"  entry   {picture.gpt_entry} at {picture.gpt_entry_pa} in Root memory")
    yield line(f"  state   {picture.state}")
    yield line(f"  owner   {picture.owner or 'none in the realm world'}")
    if picture.ipas:
        yield line(f"  mapped  at IPA {', '.join(picture.ipas)}")
    for world, refusal in picture.accesses.items():
        yield line(f"  {world:<22} ", ("no: " + refusal, BAD) if refusal else ("may access", ""))
