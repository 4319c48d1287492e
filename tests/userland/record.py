"""Record what the programs print: ``python -m tests.userland.record [name ...]``.

Each answer is the standard output of ``qemu-aarch64-static build/userland/NAME`` (Debian's package
qemu-user-static).  The tests compare with the files, and need no QEMU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.userland.build import EXPECTED, programs


def main(chosen: list[str]) -> None:
    """Write the chosen answers, all of them by default."""
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        raise SystemExit("qemu-aarch64-static is needed: install qemu-user-static")
    for name, path in programs().items():
        if chosen and name not in chosen:
            continue
        result = subprocess.run(
            [qemu, str(path)],
            env=os.environ | {"RUNNER": qemu},
            check=True,
            stdout=subprocess.PIPE,
        )
        (EXPECTED / f"{name}.txt").write_bytes(result.stdout)
        print(f"recorded {name}")  # noqa: T201  a script run by hand says what it did


if __name__ == "__main__":
    main(sys.argv[1:])
