"""Linux uses the performance monitors of a guest with --pmu."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.arch.pmu import PmuEvent
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, build_image, copy_disk, guest_options
from tests.boot.counters import AROUND, LOOP_SIZE, ROUNDS, counters_program
from tests.boot.shell import Answer, Shell

pytestmark = pytest.mark.boot

PERIOD = 100_000
KINDS = (
    pytest.param((), id="VM"),
    pytest.param(("--realm", "--no-hes"), id="realm"),
    pytest.param(("--realm", "--no-hes", "--rmi", "2.0"), id="RMI 2.0", marks=pytest.mark.slow),
)
#: Of a million rounds; a few instructions around the loop are counted, too.
EXPECTED = {
    PmuEvent.INST_RETIRED: LOOP_SIZE * ROUNDS,
    PmuEvent.CPU_CYCLES: LOOP_SIZE * ROUNDS,
    PmuEvent.LD_RETIRED: ROUNDS,
    PmuEvent.ST_RETIRED: ROUNDS,
    PmuEvent.MEM_ACCESS: 2 * ROUNDS,
    PmuEvent.BR_RETIRED: ROUNDS,
}


@pytest.fixture(scope="module", params=KINDS)
def guest(debian: Image, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Boot one guest of each kind, with five event counters."""
    options = (*request.param, "--pmu", "--pmu-counters", "5")
    with Running("run", *guest_options(debian, None), *options) as running:
        running.shell.log_in()
        yield running


@pytest.fixture
def shell(guest: Running) -> Shell:
    """Return the shell."""
    return guest.shell


def counted(shell: Shell, name: str, program: bytes) -> list[int]:
    """Run a program that writes counters."""
    shell.store(name, program)
    answer = shell.run(f"./{name} >{name}.out && od -v -A n -t d8 {name}.out")
    assert answer.status == 0, answer.output
    return [int(word) for word in answer.output.split()]


def interrupts(shell: Shell) -> int:
    """Return how many overflow interrupts there were."""
    line = shell.run("grep pmu /proc/interrupts").output
    return int(line.split()[1])


def test_linux_finds_the_counters(shell: Shell) -> None:
    """The cycle counter and the five that the option allows."""
    said = shell.run("dmesg | grep 'hw perfevents'").output
    assert re.search(r"armv8_pmuv3.* 6 .*counters available", said), said


def test_linux_counts_what_a_program_does(shell: Shell) -> None:
    """Each event by itself, in user mode."""
    found = counted(shell, "count", counters_program(list(EXPECTED)))
    for (event, times), value in zip(EXPECTED.items(), found, strict=True):
        assert times <= value <= times + AROUND, event.name


def test_linux_samples_at_overflows(shell: Shell) -> None:
    """An interrupt for each period; nothing is lost."""
    before = interrupts(shell)
    (value,) = counted(shell, "sample", counters_program([PmuEvent.CPU_CYCLES], PERIOD))
    assert LOOP_SIZE * ROUNDS <= value <= LOOP_SIZE * ROUNDS + AROUND
    assert interrupts(shell) - before == value // PERIOD


def test_linux_offers_the_events_that_are_counted(shell: Shell) -> None:
    """All of PMCEID0_EL0 and PMCEID1_EL0 by name, but two that it keeps to itself."""
    names = shell.run("ls /sys/bus/event_source/devices/armv8_pmuv3*/events").output.split()
    assert set(names) == {event.name.lower() for event in PmuEvent} - {"chain", "sw_incr"}


def test_the_kernel_complains_about_nothing(shell: Shell) -> None:
    """At the end, after all of it."""
    log = shell.run("dmesg --color=never || dmesg").output
    assert not re.search("WARNING:|BUG:|Unhandled|Oops|undefined instr", log), log


@pytest.mark.parametrize("kind", [(), ("--realm", "--no-hes")], ids=["VM", "realm"])
def test_without_the_option_there_are_none(debian: Image, kind: tuple[str, ...]) -> None:
    """The registers trap, and nothing in the device tree and the ID registers names them."""
    with Running("run", *guest_options(debian, None), *kind) as running:
        running.shell.log_in()
        assert running.shell.run("dmesg | grep -c perfevents").output == "0"
        running.shell.store("count", counters_program([PmuEvent.CPU_CYCLES]))
        assert running.shell.run("./count") == Answer(2, "")  # ENOENT


@pytest.mark.slow
@pytest.mark.parametrize("kind", [(), ("--realm", "--no-hes")], ids=["VM", "realm"])
def test_perf_counts_and_samples(tmp_path: Path, kind: tuple[str, ...]) -> None:
    """Debian's perf: `stat` without an event that is not counted, `record` with its symbols."""
    image = build_image("debian-perf", "--with", "linux-perf")
    options = (*kind, "--pmu", *guest_options(image, copy_disk(image, tmp_path)))
    with Running("run", *options) as running:
        running.shell.log_in()
        names = "instructions:u,cycles:u,ld_retired:u,st_retired:u,branches:u,dTLB-load-misses"
        work = "sha256sum /usr/bin/bash"
        answer = running.shell.run(f"perf stat -x , -e {names} -o stat {work} && cat stat")
        counts = re.findall(r"^(\d+),,([\w-]+)", answer.output, re.MULTILINE)
        found = {name: int(value) for value, name in counts}
        assert set(found) == {name.removesuffix(":u") for name in names.split(",")}, answer.output
        assert all(found.values())
        record = f"perf record -q -e cycles -c 50000 -o data {work} && perf report -i data --stdio"
        answer = running.shell.run(f"{record} | grep -c '%.*sha256sum'")
        assert int(answer.output.split()[-1]) > 1
        assert interrupts(running.shell) > 0
        running.shell.type("poweroff -f\n")
        assert running.wait() == ExitCode.OK
