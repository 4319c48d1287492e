"""Compile the explorer's page: `python tools/page.py`, part of `make gen`.

The compiled file is committed, so that neither an installation nor a run needs npm.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ROOT / "pyvmm/explore/web"
COMPILED: Final = ROOT / "pyvmm/explore/page/explorer.js"
BUILD: Final = ROOT / "build/page"
AXE: Final = BUILD / "node_modules/axe-core/axe.min.js"


def compile_page() -> bytes:
    """Check the types of the sources, and return the compiled script."""
    install()
    _npm("run", "--silent", "check")
    _npm("run", "--silent", "build")
    return (BUILD / "explorer.js").read_bytes()


def install() -> None:
    """Copy the sources beside the packages that they need, once for all processes that ask."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install()


def _install() -> None:
    shutil.copytree(SOURCES, BUILD, dirs_exist_ok=True)
    for copy in BUILD.glob("*.ts"):
        if not (SOURCES / copy.name).exists():
            copy.unlink()
    wanted = (BUILD / "package-lock.json").read_bytes()
    installed = BUILD / "installed"
    if not installed.exists() or installed.read_bytes() != wanted:
        _npm("ci", "--silent", "--no-audit", "--no-fund")
        installed.write_bytes(wanted)


def _npm(*words: str) -> None:
    done = subprocess.run(("npm", *words), cwd=BUILD, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"npm {' '.join(words)}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    COMPILED.write_bytes(compile_page())
