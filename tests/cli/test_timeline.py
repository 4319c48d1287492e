"""--trace-out and pyvmm timeline: slices of worlds and calls, their summary and their drawing."""

import json
from itertools import count
from pathlib import Path

import pytest

from pyvmm.arch.events import GptChange, HesCall, MmioAccess, RecExit, RmiCall, WorldSwitch
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RecExitReason
from pyvmm.cli.common.timeline import HOST, REALM, RMM, Timeline
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.inside import verb

IN, OUT = WorldSwitch(1, Pas.NS, Pas.REALM), WorldSwitch(1, Pas.REALM, Pas.NS)
ENTER = RmiCall("RMI_REC_ENTER", ("rec_ptr", "run_ptr"), (0x1000, 0x2000), (0,))
EXIT = RecExit(0x1000, RecExitReason.SYNC, 0x9300_0046, 0x10, 0x100)
WRITE = MmioAccess("uart0", 0x100_0000, 1, is_write=True, value=65)
DELEGATE = GptChange(0x4000_0000, 2 * GRANULE_SIZE, Pas.NS, Pas.REALM)
EVENTS = (HesCall("VHUK.GET", "OK"), IN, DELEGATE, EXIT, ENTER, OUT, WRITE, IN, ENTER, OUT)


def write_timeline(path: Path) -> None:
    """Write a timeline with an event in each millisecond."""
    clock = (tick / 1000 for tick in count())
    with Timeline(path, clock=lambda: next(clock)) as listener:
        for event in EVENTS:
            listener(event)


def test_each_pe_has_a_track_for_each_world(tmp_path: Path) -> None:
    """Times and arguments of the slices; what only happens is a mark."""
    write_timeline(tmp_path / "t.json")
    entries = json.loads((tmp_path / "t.json").read_text())
    slices = {
        (each["tid"], each["name"], each["ts"], each["dur"])
        for each in entries
        if each.get("ph") == "X"
    }
    base = 4  # of PE 1
    assert slices == {
        (base + RMM, "RMI_REC_ENTER", 2000.0, 4000.0),
        (base + REALM, "exit: SYNC", 2000.0, 4000.0),
        (base + HOST, "host", 6000.0, 2000.0),
        (base + RMM, "RMI_REC_ENTER", 8000.0, 2000.0),
    }
    (first, _) = [each for each in entries if each.get("name") == "RMI_REC_ENTER"]
    assert first["args"] == {"rec_ptr": "0x1000", "run_ptr": "0x2000", "results": "0x0"}
    marks = [each["name"] for each in entries if each.get("ph") == "i"]
    assert marks == ["HES VHUK.GET", "write uart0"]
    counters = [each["args"] for each in entries if each.get("ph") == "C"]
    assert counters == [{"REALM": 2}, {"REALM": 2}]


def test_summary_and_drawing(tmp_path: Path) -> None:
    """What took the time, by track; the same as JSON; a lane for each track with slices."""
    path, picture = tmp_path / "t.json", tmp_path / "t.svg"
    write_timeline(path)
    shown = verb("timeline", str(path))
    assert (shown.code, shown.errors) == (ExitCode.OK, "")
    assert shown.output.startswith("0.010 s\n")
    assert "PE 1 realm world: RMM: 0.006 s (60.0 %)\n" in shown.output
    assert "       2 RMI_REC_ENTER                    0.006 s, 3000.0 µs each\n" in shown.output
    data = json.loads(verb("timeline", str(path), "--json").output)
    assert data["duration"] == pytest.approx(0.01)
    parts = {each["name"]: each["parts"] for each in data["tracks"]}
    assert parts["PE 1 realm: guest"]["exit: SYNC"]["count"] == 1
    assert verb("timeline", str(path), "--svg", str(picture)).code == ExitCode.OK
    drawing = picture.read_text()
    assert drawing.startswith("<svg")
    assert drawing.rstrip().endswith("</svg>")
    assert drawing.count("PE 1 ") == 3


def test_timeline_of_a_killed_run_is_read_to_its_end(tmp_path: Path) -> None:
    """The last line is cut, and the list is not closed."""
    path = tmp_path / "t.json"
    write_timeline(path)
    path.write_bytes(path.read_bytes()[:-40])
    assert "RMI_REC_ENTER" in verb("timeline", str(path)).output


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is not a timeline: give a file that --trace-out wrote"),
        (b"\x7fELF", "is not a timeline: give a file that --trace-out wrote"),
        (b"[\n" + b"[" * 4000 + b"\n", "it is not a timeline"),
        (b'[\n{"ph": 7}\n', "line 2: Expected `str`, got `int`"),
        (b"[\nnonsense\n", "line 2: JSON is malformed"),
    ],
)
def test_other_files_are_mistakes(tmp_path: Path, content: bytes, line: str) -> None:
    """One line, exit code 2."""
    path = tmp_path / "t.json"
    path.write_bytes(content)
    ended = verb("timeline", str(path))
    assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
    assert line in ended.errors
    assert ended.errors.count("\n") == 1
    assert verb("timeline", str(tmp_path)).code == ExitCode.BAD_INPUT
    assert verb("timeline", str(tmp_path / "none")).code == ExitCode.BAD_INPUT


def test_timeline_of_a_realm(tmp_path: Path) -> None:
    """A whole life of the built-in guest: every SMC of its host is a slice."""
    path = tmp_path / "t.json"
    ended = pyvmm("run", "--realm", "--no-hes", "-m", "64", "--trace-out", path)
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    names = {each.get("name") for each in json.loads(path.read_text())}
    assert {"RMI_REALM_CREATE", "RMI_REC_ENTER", "exit: PSCI", "RSI_VERSION", "host"} <= names
    assert "PE 0 realm: guest" in verb("timeline", str(path)).output
    refused = pyvmm("run", "--trace-out", "/nowhere/t.json")
    line = "pyvmm: --trace-out /nowhere/t.json: No such file or directory: choose another file\n"
    assert (refused.code, refused.errors) == (ExitCode.BAD_INPUT, line)
