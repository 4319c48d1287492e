"""The Arm machine in C, with a typed facade.

The facade is loaded at its first use, so that the generator of this package runs before the core
is built.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.core.machine import (
        Clock,
        Machine,
        Pe,
        PeContext,
        PeExit,
        PhysicalMemory,
        confine_threads,
        decode,
    )

__all__ = [
    "Clock",
    "Machine",
    "Pe",
    "PeContext",
    "PeExit",
    "PhysicalMemory",
    "confine_threads",
    "decode",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    from pyvmm.core import machine  # noqa: PLC0415  see above

    return getattr(machine, name)
