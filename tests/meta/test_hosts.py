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
HOSTS = sorted(SOURCES.glob("host_*.c.inc"))


def declared(path: Path) -> set[str]:
    """Return the functions that a file declares or defines at its top level."""
    return set(DECLARATION.findall(path.read_text()))


@pytest.mark.parametrize("host", HOSTS, ids=[host.name for host in HOSTS])
def test_a_host_implements_the_interface(host: Path) -> None:
    """No function of the interface is missing."""
    missing = declared(SOURCES / "host.h") - declared(host)
    assert not missing


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
