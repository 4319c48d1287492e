"""The built-in guest in a realm: its output and its traces, many times."""

import re
from pathlib import Path

import pytest

from pyvmm.arch.events import Event, EventStream, GptChange
from pyvmm.arch.pas import Pas
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.memory_map import MIB, RAM_BASE
from pyvmm.vm.options import VmOptions
from tests.boot.command import Running, pyvmm
from tests.boot.inside import Inside, holdings, run_inside, settled
from tests.cli.inside import verb
from tests.vm.gdb.client import Client
from tests.waiting import wait_until

#: A flat kernel: b .
SPIN = 0x14000000.to_bytes(4, "little") * 64
PC = 32
NUM_RUNS = 2
NUM_SOAK_RUNS = 250  # of each of four kinds
#: NAME argument=… -> STATUS[:index] result…
_LINE = re.compile(
    r"\s*\d+\.\d{6}  0 +([A-Z_]+)(?: \w+=\w+)* -> ([A-Z_]+|exit)(?::\d)?(?: 0x[0-9a-f]+)*"
)


def rim_of(output: str) -> str:
    """Return the realm's initial measurement in hexadecimal."""
    match = re.search(r"^RIM +([0-9a-f]+)\r?$", output, re.MULTILINE)
    assert match, output
    return match[1]


def test_it_says_what_realm_it_is_in() -> None:
    """RSI version, configuration, five measurements; exit code 0 and nothing else."""
    ended = pyvmm("run", "--realm")
    assert (ended.code, ended.errors) == (0, "")
    lines = ended.output.splitlines()
    assert lines[0] == "Hello from a realm."
    assert lines[1].split() == ["RSI", "version", "1.0"]
    assert lines[2].split() == ["IPA", "width", "33", "bits"]
    assert lines[3].split() == ["Measurements", "SHA-256"]
    assert len(rim_of(ended.output)) == 64
    assert int(rim_of(ended.output), 16) != 0
    assert [line.split() for line in lines[5:]] == [["REM", str(n), "0" * 64] for n in range(4)]


def test_it_says_so_in_a_normal_vm() -> None:
    """It reports that there is no RMM."""
    ended = pyvmm("run")
    assert (ended.code, ended.errors) == (0, "")
    assert ended.output.startswith("Hello from a normal VM")


def test_it_waits_for_its_debugger(tmp_path: Path) -> None:
    """With --gdb-wait it does not start; at its end, GDB is told and the socket removed."""
    stub = tmp_path / "stub"
    with Running("run", "--gdb", stub, "--gdb-wait") as guest:
        with Client(stub) as client:
            assert client.ask("?") == "T05thread:1;"
            assert client.register(PC) == RAM_BASE + 0x8_0000
            assert bytes.fromhex(client.ask("qRcmd," + b"info".hex())).startswith(b"guest-")
            client.send("vCont;c")
            assert client.receive() == b"W00"
        assert guest.shell.read_all().startswith("Hello from a normal VM")
        assert guest.wait() == 0
    assert not stub.exists()


def test_a_debugger_may_pull_the_plug(tmp_path: Path) -> None:
    """With GDB's kill or monitor quit: exit code 5, as for the user's Ctrl-A x."""
    stub = tmp_path / "stub"
    for command in ("k", "qRcmd," + b"quit".hex()):
        with Running("run", "--gdb", stub, "--gdb-wait") as guest, Client(stub) as client:
            client.send(command)
            assert guest.wait() == ExitCode.QUIT


def test_measurement_follows_from_the_configuration_alone(tmp_path: Path) -> None:
    """Memory, CPUs, hash, bus and GIC change it; the personalization value does not (DEN0137).

    It was known before.
    """
    configurations: tuple[tuple[str, ...], ...] = (
        (),
        (),
        ("-m", "256M"),
        ("-c", "2"),
        ("--measurement-algo", "sha512"),
        ("--rmi", "2.0"),
        ("--rmi", "2.0", "--pmu"),
        ("--rmi", "2.0", "--measurement-algo", "sha384", "-c", "3"),
        ("--transport", "pci"),
        ("--force-pci", "--irqchip", "gicv3"),
        ("--irqchip", "gicv3-its"),
        ("--vsock", "auto", "--9p", f"{tmp_path},one", "--virtiofs", f"{tmp_path},two"),
        ("--realm-pv", "mine"),
    )
    rims = [rim_of(pyvmm("run", "--realm", *options).output) for options in configurations]
    for rim, options in zip(rims, configurations, strict=True):
        assert verb("measure", "--realm", *options).output == f"{rim}\n"
    assert rims[0] == rims[1] == rims[-1]
    assert len(set(rims)) == len(rims) - 2
    sizes = {"sha512": 128, "sha384": 96}
    assert [len(rim) for rim in rims] == [
        next((sizes[word] for word in each if word in sizes), 64) for each in configurations
    ]


def test_trace_has_a_line_for_each_event(tmp_path: Path) -> None:
    """Names and statuses of the requested kinds, and of no others."""
    path = tmp_path / "trace"
    assert pyvmm("run", "--realm", "--trace", f"rmi,psci:{path}").code == 0
    matches = [_LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(matches)
    calls = [(match[1], match[2]) for match in matches if match]
    names = [name for name, _ in calls]
    first = names.index("RMI_REALM_CREATE")
    assert calls[first] == ("RMI_REALM_CREATE", "SUCCESS")
    order = ["RMI_DATA_CREATE", "RMI_REC_CREATE", "RMI_REALM_ACTIVATE", "RMI_REC_ENTER"]
    order += ["PSCI_SYSTEM_OFF", "RMI_REC_DESTROY", "RMI_DATA_DESTROY", "RMI_REALM_DESTROY"]
    for name in order:
        assert name in names[first:], f"no {name} after {names[first - 1]}"
        first = names.index(name, first)
    assert names.count("RMI_GRANULE_DELEGATE") == names.count("RMI_GRANULE_UNDELEGATE")


@pytest.mark.parametrize(
    "kind", ["rmi", "rsi", "psci", "smc", "hes", "gpt", "rtt", "rim", "exit", "mmio"]
)
def test_each_kind_can_be_traced(kind: str) -> None:
    """On standard error, apart from the guest's output."""
    ended = pyvmm("run", "--realm", "--trace", kind)
    assert ended.code == 0
    assert ended.errors
    assert ended.output.startswith("Hello from a realm.")


def test_every_granule_comes_back() -> None:
    """Each delegated granule is undelegated, and the GPT agrees."""
    moved: dict[int, Pas] = {}

    def listener(event: Event) -> None:
        if isinstance(event, GptChange):
            moved[event.pa] = event.new

    with Inside(VmOptions(ram_size=64 * MIB, is_realm=True), EventStream(listener)) as guest:
        assert guest.wait() is ExitCode.OK
        assert moved
        assert set(moved.values()) == {Pas.NS}
        assert guest.platform.leak_check() == []


def test_quitting_gives_everything_back(tmp_path: Path) -> None:
    """Even if every CPU of the realm is in the middle of something."""
    kernel = tmp_path / "spin"
    kernel.write_bytes(SPIN)
    options = VmOptions(kernel=kernel, ram_size=64 * MIB, num_cpus=2, is_realm=True)
    with Inside(options) as guest:
        wait_until(lambda: guest.platform.leak_check() != [])
        guest.instance.quit()
        assert guest.wait() is ExitCode.QUIT
        assert guest.platform.leak_check() == []


@pytest.mark.parametrize("count", [NUM_RUNS, pytest.param(NUM_SOAK_RUNS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_cpus", [1, 2])
@pytest.mark.parametrize("is_realm", [False, True])
def test_boots_in_a_row_are_all_the_same(count: int, num_cpus: int, is_realm: bool) -> None:
    """The same output, and no descriptor, thread, child or memory file left behind."""
    options = VmOptions(ram_size=64 * MIB, num_cpus=num_cpus, is_realm=is_realm)
    first = run_inside(options)
    assert first[0] is ExitCode.OK
    before = holdings()
    for _ in range(count):
        assert run_inside(options) == first
    assert settled(before) == before
