"""Record what the programs print: ``python -m tests.userland.record [name ...]``.

Each answer is the standard output of ``qemu-aarch64-static build/userland/NAME`` (Debian's package
qemu-user-static), or, of what needs a kernel, of qemu-system-aarch64 with Debian's.  The tests
compare with the files, and need no QEMU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.userland.build import EXPECTED, OUTPUT, make_initrd, programs
from tests.userland.test_userland import IMAGES, OUTCOME

#: QEMU's user mode has no ptrace.
NEEDS_KERNEL = ("ptrace",)


def tool(name: str, package: str) -> str:
    """Return where a program is, or say how to get it."""
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is needed: install {package}")
    return found


def in_user_mode(path: Path) -> str:
    """Return what a program prints in QEMU's user mode."""
    qemu = tool("qemu-aarch64-static", "qemu-user-static")
    environment = os.environ | {"RUNNER": qemu}
    return subprocess.check_output([qemu, str(path)], env=environment, text=True)


def in_machine(name: str) -> str:
    """Return what a program prints under Debian's kernel on QEMU's machine."""
    initrd = OUTPUT / "initrd.img"
    initrd.write_bytes(make_initrd())
    command = [tool("qemu-system-aarch64", "qemu-system-arm"), "-M", "virt", "-cpu", "max"]
    command += ["-m", "512", "-nographic", "-kernel", str(IMAGES / "Image"), "-initrd", str(initrd)]
    command += ["-append", f"quiet loglevel=0 -- {name}"]
    said = subprocess.check_output(command, stdin=subprocess.DEVNULL, text=True)
    outputs: dict[str, str] = {found: output for found, output, _ in OUTCOME.findall(said)}
    return outputs[name]


def main(chosen: list[str]) -> None:
    """Write the chosen answers, all of them by default."""
    for name, path in programs().items():
        if chosen and name not in chosen:
            continue
        answer = in_machine(name) if name in NEEDS_KERNEL else in_user_mode(path)
        (EXPECTED / f"{name}.txt").write_text(answer)
        print(f"recorded {name}")  # noqa: T201  a script run by hand says what it did


if __name__ == "__main__":
    main(sys.argv[1:])
