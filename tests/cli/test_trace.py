"""--trace: times, nesting, JSON with a schema, and the help."""

import json
from itertools import count, islice
from pathlib import Path
from threading import Thread

import pytest
from jsonschema import Draft202012Validator

from pyvmm.arch.events import (
    KINDS,
    Event,
    GptChange,
    HesCall,
    MmioAccess,
    RecExit,
    RmiCall,
    RsiCall,
    Smc,
    WorldSwitch,
)
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmi import RecExitReason
from pyvmm.cli.common.trace import Trace
from pyvmm.vm.control.schema import EVENT_SCHEMA
from pyvmm.vm.exit_code import ExitCode
from tests.cli.inside import verb
from tests.cli.instance import REALM

_GUIDE = Path(__file__).parents[2] / "docs" / "guests.md"
_ENTER = WorldSwitch(0, Pas.NS, Pas.REALM)
_LEAVE = WorldSwitch(0, Pas.REALM, Pas.NS)
_MOVE = GptChange(0x4000_0000, 0x1000, Pas.NS, Pas.REALM)
_RUN: tuple[Event, ...] = (
    HesCall("MEASURED_BOOT.EXTEND", "SUCCESS"),
    _ENTER,
    _MOVE,
    Smc(0, Pas.REALM, (0xC400_01B0, 0x4000_0000), (0,)),
    RmiCall("RMI_GRANULE_DELEGATE", ("addr",), (0x4000_0000,), (0,)),
    _LEAVE,
    Smc(0, Pas.NS, (0xC400_0151, 0x4000_0000), (0,)),
    _ENTER,
    HesCall("DELEGATED_ATTESTATION.GET_TOKEN", "SUCCESS"),
    RsiCall(0x6000_0000, "RSI_ATTESTATION_TOKEN_CONTINUE", (), (), (0,)),
    RecExit(0x6000_0000, RecExitReason.SYNC, 0x9200_0047, 0, 0),
    RmiCall("RMI_REC_ENTER", (), (), (0,)),
    _LEAVE,
    MmioAccess("uart0", 0x100_0000, 1, is_write=True, value=0x48),
)


def lines(kinds: str, path: Path) -> list[str]:
    """Return the trace of the events above, a millisecond apart."""
    clock = (number / 1000 for number in count())
    with Trace(f"{kinds}:{path}", clock=clock.__next__) as listener:
        for event in _RUN:
            listener(event)
    return path.read_text().splitlines()


def test_what_is_inside_a_call_is_above_it_and_indented(tmp_path: Path) -> None:
    """By world and call, whatever else is shown; only the levels that are shown count."""
    words = [line.split(" rec=")[0].split(" addr=")[0] for line in lines("all", tmp_path / "t")]
    assert words == [
        "  0.001000  - HES MEASURED_BOOT.EXTEND -> SUCCESS",
        "  0.002000  0   WORLD pe=0 NS -> REALM",
        "  0.003000  0       GPT pa=0x40000000 size=0x1000 NS -> REALM",
        "  0.004000  0     SMC pe=0 from=REALM GTSI_DELEGATE 0xc40001b0 0x40000000 -> 0x0",
        "  0.005000  0   RMI_GRANULE_DELEGATE",
        "  0.006000  0   WORLD pe=0 REALM -> NS",
        "  0.007000  0 SMC pe=0 from=NS RMI_GRANULE_DELEGATE 0xc4000151 0x40000000 -> 0x0",
        "  0.008000  0   WORLD pe=0 NS -> REALM",
        "  0.009000  0       HES DELEGATED_ATTESTATION.GET_TOKEN -> SUCCESS",
        "  0.010000  0     RSI_ATTESTATION_TOKEN_CONTINUE",
        "  0.011000  0     REC_EXIT",
        "  0.012000  0   RMI_REC_ENTER -> SUCCESS",
        "  0.013000  0   WORLD pe=0 REALM -> NS",
        "  0.014000  0 MMIO write 0x1000000 size=1 value=0x48 uart0",
    ]
    few = [line.split()[2] for line in lines("rmi,gpt", tmp_path / "t")]
    assert few == ["GPT", "RMI_GRANULE_DELEGATE", "RMI_REC_ENTER"]
    assert lines("rmi,gpt", tmp_path / "t")[0][13:].startswith("   GPT ")
    assert lines("rsi", tmp_path / "t")[0][13:].startswith(" RSI_")


def test_a_thread_does_not_inherit_the_pe_of_one_that_has_ended(tmp_path: Path) -> None:
    """Though the system gives it the same identifier."""
    with Trace(f"hes:{tmp_path / 't'}") as listener:
        for events in ([_ENTER], [HesCall("VHUK.GET", "SUCCESS")]):
            thread = Thread(target=lambda events=events: [listener(event) for event in events])
            thread.start()
            thread.join()
    (line,) = (tmp_path / "t").read_text().splitlines()
    assert line.split()[1] == "-"


def test_a_syndrome_has_a_name(tmp_path: Path) -> None:
    """Its class, and what a data abort was."""
    (line,) = lines("exit", tmp_path / "t")
    named = "SYNC esr=0x92000047 (DATA_ABORT_LOWER write, translation fault at level 3) far=0x0"
    assert named in line


@pytest.mark.usefixtures("runtime")
def test_lines_of_json_have_a_schema(tmp_path: Path) -> None:
    """Events of every kind that a realm causes match it; others do not."""
    path = tmp_path / "trace"
    arguments = ("--trace", f"all:{path}", "--trace-format", "json")
    assert verb("run", *REALM, *arguments).code == ExitCode.OK
    events = [json.loads(line) for line in path.read_text().splitlines()]
    validator = Draft202012Validator(json.loads(EVENT_SCHEMA.read_text()))
    for name in (event.__name__ for kind in KINDS.values() for event in kind.events):
        found = [each for each in events if each["kind"] == name]
        assert found or name == "HesCall"  # this realm has no HES
        for event in islice(found, 3):
            validator.validate(event)
            assert not validator.is_valid(event | {"kind": "Smcs"})
            assert not validator.is_valid(event | {"event": {}})
    times = [event["time"] for event in events]
    assert times == sorted(times)


@pytest.mark.parametrize("command", ["run", "create"])
def test_help_explains_each_kind(command: str) -> None:
    """As the manual does."""
    ended = verb(command, "--trace", "help")
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    guide = _GUIDE.read_text()
    for name, kind in KINDS.items():
        assert f"{name:4}  {kind.meaning}\n" in ended.output
        assert f"| `{name}` | {kind.meaning} |\n" in guide
