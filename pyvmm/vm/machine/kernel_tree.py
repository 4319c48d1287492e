"""A kernel's source tree, or the directory that its build writes to, as the current directory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pyvmm.arch.errors import UserError
from pyvmm.vm.memory_map import MAX_CPUS

_IMAGE: Final = Path("arch/arm64/boot/Image")
_VMLINUX: Final = Path("vmlinux")
#: What a source tree has, and what a directory of `make O=DIR` has.
_SIGNS: Final = (("Kconfig", "Kbuild", "arch/arm64/Kconfig"), (".config", "arch/arm64", "source"))


@dataclass(frozen=True, slots=True)
class KernelTree:
    """The kernel that was built there."""

    kernel: Path
    vmlinux: Path | None

    @classmethod
    def find(cls, directory: Path) -> Self | None:
        """Return the kernel of a directory; None if it is not a kernel's tree.

        Raises:
            UserError: it is one, and its arm64 kernel is not built.
        """
        if not any(all((directory / each).exists() for each in signs) for signs in _SIGNS):
            return None
        kernel, vmlinux = directory / _IMAGE, directory / _VMLINUX
        if not kernel.is_file():
            raise UserError(
                f"this is a kernel's source tree without {_IMAGE}: build it with make ARCH=arm64"
                " Image (and CROSS_COMPILE=aarch64-linux-gnu-), or give --kernel"
            )
        return cls(kernel, vmlinux if vmlinux.is_file() else None)


def num_host_cpus() -> int:
    """Return how many CPUs of this machine a guest can use at the same time."""
    return min(len(os.sched_getaffinity(0)), MAX_CPUS)
