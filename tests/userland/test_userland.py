"""Static arm64 programs print the same under Debian's kernel in a normal VM as under QEMU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.userland.build import EXPECTED, make_initrd, names

PYVMM = str(Path(sys.executable).parent / "pyvmm")
IMAGES = Path(__file__).parents[2] / "build/debian"
#: What init.c prints: a program's name, its output, its wait status.
OUTCOME = re.compile(r"^<<< (\w+)\n(.*?)^>>> (-?\d+)\n", re.MULTILINE | re.DOTALL)
TIMEOUT = 300
#: Programs that use several CPUs, or depend on what another one does.
PARALLEL = ("threads", "codegen", "processes", "ptrace", "signals", "clocks")


@pytest.fixture(scope="module")
def kernel() -> Path:
    """Return Debian's kernel, made if it is not there."""
    path = IMAGES / "Image"
    if not path.exists():
        subprocess.run([PYVMM, "image", "build", "debian", "--output", str(IMAGES)], check=True)
    return path


@pytest.fixture(scope="module")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initial RAM disk with the programs."""
    path = tmp_path_factory.mktemp("userland") / "initrd.img"
    path.write_bytes(make_initrd())
    return path


def boot(kernel: Path, initrd: Path, cpus: int, programs: list[str]) -> dict[str, tuple[str, int]]:
    """Run programs in a guest; return name to output and wait status."""
    result = subprocess.run(
        [
            *(PYVMM, "run", "--kernel", str(kernel), "--initrd", str(initrd), "-c", str(cpus)),
            *("--timeout", str(TIMEOUT), "-p", f"quiet loglevel=0 -- {' '.join(programs)}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    text = result.stdout.decode().replace("\r\n", "\n")
    return {name: (output, int(status)) for name, output, status in OUTCOME.findall(text)}


def expected(programs: list[str]) -> dict[str, tuple[str, int]]:
    """Return what QEMU recorded; every program ends well."""
    return {name: ((EXPECTED / f"{name}.txt").read_text(), 0) for name in programs}


def test_every_program_has_an_answer() -> None:
    """Neither a program without an answer nor an answer without a program."""
    assert names() == sorted(path.stem for path in EXPECTED.glob("*.txt"))


@pytest.mark.boot
@pytest.mark.parametrize(("cpus", "programs"), [(1, names()), (2, list(PARALLEL))])
def test_programs_print_what_they_print_under_qemu(
    kernel: Path, initrd: Path, cpus: int, programs: list[str]
) -> None:
    """Arithmetic, memory, signals, processes, debuggers, threads, changing code, to the byte."""
    assert boot(kernel, initrd, cpus, programs) == expected(programs)
