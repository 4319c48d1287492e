"""The test programs: how they are compiled, and the initial RAM disk that runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyvmm.vm.images.cpio import CpioArchive

HERE = Path(__file__).parent
SOURCES = HERE / "programs"
EXPECTED = HERE / "expected"
OUTPUT = HERE.parents[1] / "build/userland"

#: Zig's compiler brings its own arm64 C library. It compiles the library anew for each CPU and each
#: optimization level, for a minute each time, so all guest programs are built for the same ones.
#: Contracted products would differ between compilers, and so would the recorded answers.
COMPILE = (
    *(sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-s"),
    *("-std=gnu11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
)
#: What else a program is built with: this one returns by RETAA. The C library stays the same, as it
#: would not with -mcpu.
EXTRA = {
    "pointers": (
        *("-mbranch-protection=standard", "-Xclang", "-target-feature", "-Xclang", "+pauth"),
    ),
}


def names() -> list[str]:
    """Return the names of the programs."""
    return sorted(path.stem for path in SOURCES.glob("*.c"))


def compile_program(source: Path) -> Path:
    """Compile a program unless that is done; the first one ever takes a minute: the C library."""
    target = OUTPUT / source.stem
    inputs = (source, SOURCES / "check.h", Path(__file__))
    if not target.exists() or target.stat().st_mtime < max(p.stat().st_mtime for p in inputs):
        OUTPUT.mkdir(parents=True, exist_ok=True)
        extra = EXTRA.get(source.stem, ())
        subprocess.run([*COMPILE, *extra, str(source), "-o", str(target)], check=True)
    return target


def programs() -> dict[str, Path]:
    """Compile every program; return name to file."""
    return {name: compile_program(SOURCES / f"{name}.c") for name in names()}


def make_initrd() -> bytes:
    """Return an initial RAM disk with every program, and init, which runs them."""
    archive = CpioArchive()
    for directory in ("dev", "proc", "programs"):
        archive.add_directory(directory)
    archive.add_char_device("dev/console", 5, 1)
    archive.add_file("init", compile_program(HERE / "init.c").read_bytes(), 0o755)
    for name, path in programs().items():
        archive.add_file(f"programs/{name}", path.read_bytes(), 0o755)
    return archive.finish()
