"""Many realms at once: what each uses, and that nothing of them is left."""

import os
from pathlib import Path

import pytest

from tests.boot.command import pyvmm
from tests.cli.inside import verb
from tests.cli.instance import DONE, REALM, create, is_gone, left, result, status
from tests.cli.kernels import IDLE, kernel

MIB = 1 << 20
MAX_OVERHEAD = 60 * MIB
MAX_TIME = 1.5  # seconds, of a CPU: the machine may have other work


def takes(pid: int) -> int:
    """Return the memory of a process in bytes, with its share of shared pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return kilobytes << 10


def cpu_time(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_many_realms_live_at_once(runtime: Path, tmp_path: Path, count: int) -> None:
    """Each uses its memory and little more; destroyed, they leave nothing."""
    names = [f"r{number}" for number in range(count)]
    pids = [create(name, *REALM, str(kernel(tmp_path, IDLE))) for name in names]
    assert result(verb("start", "--all")) == DONE
    assert {status(name)["state"] for name in names} == {"running"}
    for pid in pids:
        touched = sum(
            path.stat().st_blocks * 512
            for path in Path(f"/proc/{pid}/fd").iterdir()
            if "memfd:pyvmm" in str(path.readlink())
        )
        assert takes(pid) <= touched + MAX_OVERHEAD
    assert result(verb("destroy", *names)) == DONE
    assert all(map(is_gone, pids))
    assert left(runtime) == []


@pytest.mark.usefixtures("runtime")
def test_a_realm_is_made_and_speaks_soon() -> None:
    """The time from the command to its first line is short."""
    made = pyvmm("create", "r1", *REALM)
    pid = int(status("r1")["pid"])
    before = made.cpu_time + cpu_time(pid)
    verbs = [
        pyvmm("start", "r1"),
        pyvmm("wait", "r1", "--for", "console:Hello from a realm", "--timeout", "60"),
    ]
    assert [each.code for each in (made, *verbs)] == [0, 0, 0]
    assert before + sum(each.cpu_time for each in verbs) < MAX_TIME
