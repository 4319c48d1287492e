"""pyvmm timeline: summarize or draw a file that --trace-out has written."""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import BinaryIO, Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import open_file
from pyvmm.cli.common.instances import print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.vm.json_text import decode

_HELP = """Summarize or draw the timeline of a run, which `--trace-out FILE` of run or create wrote.

For each PE and world: how long the PE was there, and what took most of the time. https://ui.perfetto.dev
and chrome://tracing show the file in full.
"""
_MAX_LINE: Final = 1 << 20
_SHOWN: Final = 8  # names of a track
_WIDTH, _LANE, _LEFT, _TOP = 1200, 26, 210, 40  # pixels of a drawing
_COLOURS: Final = ("#2e7d32", "#c62828", "#1565c0", "#6a1b9a")  # by world, as tracks are numbered
_LEVELS: Final = 4  # of opacity


class Entry(msgspec.Struct):
    """One line of the file; its format has many more members."""

    ph: str = ""
    name: str = ""
    tid: int = 0
    ts: float = 0.0
    dur: float = 0.0
    args: dict[str, object] = {}


class Part(msgspec.Struct):
    """What happened under one name on a track."""

    count: int = 0
    seconds: float = 0.0


class Track(msgspec.Struct):
    """One world of one PE."""

    name: str
    seconds: float = 0.0  # spent in slices
    parts: dict[str, Part] = {}
    slices: list[tuple[float, float]] = []  # start and end, s; not printed


class TrackSummary(msgspec.Struct):
    """A track without its slices."""

    name: str
    seconds: float
    parts: dict[str, Part]


class Summary(msgspec.Struct):
    """What `--json` prints."""

    duration: float  # s
    tracks: list[TrackSummary]


@click.command(help=_HELP)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--svg", type=click.Path(path_type=Path), metavar="FILE", help="draw it as SVG")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def timeline(file: Path, *, svg: Path | None, wants_json: bool) -> None:
    """Read the file, and show what is in it."""
    tracks = _read(file)
    duration = max((end for track in tracks.values() for _, end in track.slices), default=0.0)
    if wants_json:
        rows = [TrackSummary(each.name, each.seconds, each.parts) for each in tracks.values()]
        print_json(Summary(duration, rows))
    elif svg is not None:
        try:
            svg.write_text("\n".join(_drawing(tracks, duration)))
        except OSError as error:
            raise UserError(f"--svg {svg}: {error.strerror}") from None
    else:
        print_lines(*_summary(tracks, duration))


def _read(path: Path) -> dict[int, Track]:
    """Return the tracks of a file, by number.

    Raises:
        UserError: it cannot be read, or is not a timeline.
    """
    tracks: dict[int, Track] = {}
    try:
        with os.fdopen(open_file(path, "timeline"), "rb") as file:
            if file.readline(_MAX_LINE).strip() != b"[":
                raise UserError(f"{path} is not a timeline: give a file that --trace-out wrote")
            for entry in _entries(file, path):
                _take(tracks, entry)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: check the path") from None
    return dict(sorted(tracks.items()))


def _entries(file: BinaryIO, path: Path) -> Iterator[Entry]:
    """Yield the entries; the last line of a run that was killed may be incomplete."""
    number = 1
    while line := file.readline(_MAX_LINE):
        number += 1
        if not line.endswith(b"\n"):
            return
        text = line.rstrip(b"\n").removesuffix(b",").removesuffix(b"]")
        try:
            yield decode(text, Entry)
        except msgspec.DecodeError as error:
            raise UserError(f"{path}, line {number}: {error}: it is not a timeline") from None


def _take(tracks: dict[int, Track], entry: Entry) -> None:
    if entry.ph == "M" and entry.name == "thread_name":
        tracks.setdefault(entry.tid, Track("")).name = str(entry.args.get("name", ""))
    if entry.ph not in {"X", "i"}:
        return
    track = tracks.setdefault(entry.tid, Track(f"track {entry.tid}"))
    part = track.parts.setdefault(entry.name, Part())
    part.count += 1
    if entry.ph == "X":
        start, length = entry.ts / 1e6, entry.dur / 1e6
        part.seconds += length
        track.seconds += length
        track.slices.append((start, start + length))


def _summary(tracks: dict[int, Track], duration: float) -> Iterator[str]:
    yield f"{duration:.3f} s"
    for track in tracks.values():
        if not track.parts:
            continue
        share = 100 * track.seconds / duration if duration else 0
        yield f"{track.name}: {track.seconds:.3f} s ({share:.1f} %)"
        most = sorted(track.parts.items(), key=lambda each: (-each[1].seconds, -each[1].count))
        for name, part in most[:_SHOWN]:
            times = f"{part.seconds:.3f} s, {part.seconds / part.count * 1e6:.1f} µs each"
            yield f"  {part.count:>8} {name:<32} {times if part.seconds else ''}".rstrip()
        if len(most) > _SHOWN:
            yield f"  and {len(most) - _SHOWN} more"


def _drawing(tracks: dict[int, Track], duration: float) -> Iterator[str]:
    """Yield the lines of an SVG drawing: a lane for each track, time from left to right."""
    lanes = [(number, track) for number, track in tracks.items() if track.slices]
    height = _TOP + _LANE * len(lanes) + 30
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}"'
        ' font-family="sans-serif" font-size="13">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    for tenth in range(11):
        x = _LEFT + _WIDTH * tenth // 10
        yield f'<text x="{x}" y="22" text-anchor="middle">{duration * tenth / 10:.3g} s</text>'
        yield f'<line x1="{x}" x2="{x}" y1="28" y2="{height - 20}" stroke="#ddd"/>'
    for row, (number, track) in enumerate(lanes):
        y = _TOP + _LANE * row
        yield f'<text x="8" y="{y + 16}">{_escape(track.name)}</text>'
        colour = _COLOURS[number % len(_COLOURS)]
        for start, end, level in _columns(track, duration):
            yield (
                f'<rect x="{_LEFT + start}" y="{y}" width="{end - start}" height="{_LANE - 6}"'
                f' fill="{colour}" opacity="{level / _LEVELS:.2f}"/>'
            )
    yield "</svg>"


def _columns(track: Track, duration: float) -> Iterator[tuple[int, int, int]]:
    """Yield runs of pixel columns that the track's slices cover to the same degree."""
    covered = [0.0] * (_WIDTH + 1)
    scale = _WIDTH / duration if duration else 0
    for start, end in track.slices:
        first, last = start * scale, end * scale
        for column in range(int(first), min(int(last), _WIDTH - 1) + 1):
            covered[column] += min(last, column + 1) - max(first, column)
    levels = [min(_LEVELS, ceil(each * _LEVELS)) for each in covered[:_WIDTH]] + [0]
    begin = 0
    for column in range(1, _WIDTH + 1):
        if levels[column] != levels[begin] or column == _WIDTH:
            if levels[begin]:
                yield begin, column, levels[begin]
            begin = column


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
