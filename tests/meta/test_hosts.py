"""The hosts of the translator: what `host.h` declares, each implements, and arm64's compiles.

`make test-aarch64` executes the arm64 code, in qemu-aarch64.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm import core

SOURCES = Path(core.__file__).parent
DECLARATION = re.compile(r"^\w[\w *]*\b(host_\w+)\(", re.MULTILINE)
HOSTS = ("aarch64", "x86_64")


def declared(pattern: str) -> set[str]:
    """Return the functions that files declare or define at their top level."""
    texts = (path.read_text() for path in SOURCES.glob(pattern))
    return {name for text in texts for name in DECLARATION.findall(text)}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_implements_the_interface(host: str) -> None:
    """No function of the interface is missing."""
    assert declared("host.h") <= declared(f"host_{host}*.c.inc")


def test_the_arm64_host_compiles_without_warnings(tmp_path: Path) -> None:
    """The cross compiler has nothing to say."""
    subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"),
            *("-std=gnu11", "-Wall", "-Wextra", "-Werror"),
            *("-c", "host.c", "-o", tmp_path / "host.o"),
        ],
        check=True,
        cwd=SOURCES,
    )
