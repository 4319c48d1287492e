"""Translation walks and realm translation tables as text."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from pyvmm.arch.pictures import EntryRun, RttPicture, TablePicture, WalkPicture
from pyvmm.cli.common.units import size
from pyvmm.cli.pictures.canvas import BAD, DIM, HEADING, line, style_of


def walk_lines(picture: WalkPicture, *, is_ipa: bool) -> Iterator[Text]:
    """Yield the entries read by a walk, its result, and what accesses would do."""
    what = "IPA" if is_ipa else f"EL{picture.el} virtual address"
    symbol = f" ({picture.symbol})" if picture.symbol else ""
    yield line(("walk ", HEADING), f"of {what} {picture.address}{symbol} on PE {picture.pe}")
    for step in picture.steps:
        where = f"  stage {step.stage} level {step.level}  entry {step.index:>4} at {step.address} "
        fields = " ".join(f"{name}={value}" for name, value in step.fields.items())
        output = f" {step.output}" if step.output else ""
        yield line(
            where,
            (step.pas, style_of(step.pas)),
            f"  {step.descriptor} {step.kind}{output}  ",
            (fields, DIM),
        )
    yield line("  IPA  ", picture.ipa or "none: stage 1 has no translation")
    pas = picture.pas or ""
    yield line("  PA   ", picture.pa or "none", " ", (pas, style_of(pas)))
    if picture.gpi is not None:
        yield line("  GPI  ", (picture.gpi, style_of(picture.gpi)))
    for each in picture.accesses:
        if each.is_allowed:
            yield line(f"  {each.access:<5} allowed")
        else:
            text = f"{each.fault}, taken to {each.taken_to} with ESR {each.esr}"
            yield line(f"  {each.access:<5} ", (text, BAD))


def rtt_lines(pictures: Sequence[RttPicture]) -> Iterator[Text]:
    """Yield the tables of each realm as a tree."""
    for picture in pictures:
        yield line(("realm translation tables ", HEADING), f"of realm {picture.rd}")
        top = min(table.level for table in picture.tables)
        for table in picture.tables:
            yield from _table(table, "  " * (1 + table.level - top))


def _table(table: TablePicture, indent: str) -> Iterator[Text]:
    what = f" at {table.pa}: IPA {table.ipa} and up, {table.live} live entries"
    yield line(indent, (f"level {table.level}", HEADING), what)
    for run in table.entries:
        if run.state != "TABLE":
            yield line(f"{indent}  {_run(run)}")


def _run(run: EntryRun) -> str:
    last = f"-{run.index + run.count - 1}" if run.count > 1 else ""
    target = f" -> {run.pa}" if run.pa else ""
    ripas = f"/{run.ripas}" if run.ripas else ""
    return f"[{run.index}{last}] {run.ipa} {size(run.size)} {run.state}{ripas}{target}"
