"""Keystone for tests in qemu-aarch64: that of the machine outside, as PyPI has none for arm64.

What qemu-aarch64 runs can start programs of the machine outside.
"""

import json
import os
import subprocess
import sys

KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN = 2, 0


class Ks:
    """An assembler."""

    def __init__(self, arch: int, mode: int) -> None:
        environment = {
            name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")
        }
        self._process = subprocess.Popen(
            [os.environ["BUILD_PYTHON"], __file__, str(arch), str(mode)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def asm(self, text: str) -> tuple[list[int] | None, int]:
        """Return the bytes of some statements, and how many these are."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None  # noqa: PT018, S101  they are pipes
        requests.write(json.dumps(text) + "\n")
        requests.flush()
        code, count = json.loads(answers.readline())
        return code, count


def serve(arch: str, mode: str) -> None:
    """Answer requests on standard input, with the real Keystone."""
    sys.path.pop(0)  # this directory
    from keystone import Ks as Real  # noqa: PLC0415  here it is the other one

    assembler = Real(int(arch), int(mode))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(assembler.asm(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(*sys.argv[1:])
