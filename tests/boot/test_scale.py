"""Many realms at once: what each uses, and that nothing of them is left."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.guests import hello
from tests.boot.command import PYVMM, pyvmm
from tests.boot.shell import PATIENCE
from tests.core.program import assemble

MIB = 1 << 20
#: What a realm may take beside the memory that its guest has touched.
MOST_BESIDE = 60 * MIB
_OFF = "movz x0, #0x8400, lsl #16; movk x0, #8; "


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the instances a separate runtime directory; end all that a failure leaves there."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / "pyvmm"
    names = [path.stem for path in (tmp_path / "pyvmm").glob("*.d")]
    if names:
        pyvmm("destroy", *names, "--timeout", "0")


def staying(directory: Path) -> Path:
    """Return the built-in guest, changed to wait instead of powering off."""
    end, waiting = assemble(_OFF + "smc #0"), assemble(_OFF + "wfi")
    assert end in hello()
    path = directory / "kernel"
    path.write_bytes(hello().replace(end, waiting))
    return path


def in_parallel(commands: list[list[str]]) -> None:
    """Run pyvmm commands in parallel, to their end."""
    processes = [subprocess.Popen([PYVMM, *words]) for words in commands]
    assert [process.wait(PATIENCE) for process in processes] == [0] * len(commands)


def memory_of(pid: int) -> int:
    """Return the bytes that a process uses: its share of mappings, and its memory files."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    pss = {line.split()[0]: int(line.split()[1]) << 10 for line in rollup.splitlines()[1:]}
    open_files = list(Path(f"/proc/{pid}/fd").iterdir())
    memory_files = [path.stat() for path in open_files if "memfd:" in str(path.readlink())]
    sizes = {file.st_ino: file.st_blocks * 512 for file in memory_files}
    return pss["Pss:"] - pss["Pss_Shmem:"] + sum(sizes.values())


def processes_of(runtime: Path) -> list[int]:
    """Return the processes that use this runtime directory."""
    variable = f"XDG_RUNTIME_DIR={runtime.parent}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except (OSError, ValueError):  # ended, or not ours
            continue
    return found


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_realms_live_side_by_side(runtime: Path, tmp_path: Path, count: int) -> None:
    """Each uses the memory that it touched and up to 60 MiB; destroyed, nothing is left."""
    names = [f"r{number}" for number in range(count)]
    kernel = str(staying(tmp_path))
    in_parallel([["create", name, "--realm", "-m", "64M", "-k", kernel] for name in names])
    assert pyvmm("start", *names).code == 0
    for name in names:
        assert pyvmm("wait", name, "--for", r"console:REM 3 +0{64}", "--timeout", "60").code == 0
    listed = json.loads(pyvmm("list", "--json").output)
    assert {each["name"]: each["state"] for each in listed} == dict.fromkeys(names, "running")
    statistics = json.loads(pyvmm("stat", "--all", "--json").output)
    beside = {}
    for each in listed:
        touched = statistics[each["name"]]["memory"]["realm"]["resident"]
        beside[each["name"]] = memory_of(each["pid"]) - touched
    assert min(beside.values()) > 0
    assert max(beside.values()) <= MOST_BESIDE, beside
    assert {each["pid"] for each in listed} <= set(processes_of(runtime))
    assert pyvmm("destroy", *names).code == 0
    assert [path.name for path in runtime.iterdir()] == [".lock"]
    assert processes_of(runtime) == []  # nor a memory file, which only a process can hold
