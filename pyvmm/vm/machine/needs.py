"""Check that a guest has enough memory for Debian's kernel; with less it silently ends or hangs.

A kernel reserves memory before it has a console: 64 MiB for contiguous allocations, and in a realm
a bounce pool, which holds all data of its devices.  The pool has 64 MiB; from Linux 7.3 on it has
1/1024 of the memory, and a network card's receive buffers can fill it, so that disk requests never
complete.  The figures were measured with Linux 7.2 and 7.3; docs/guests.md documents them.
"""

import re
from typing import Final

from pyvmm.host.guest import GuestConfig
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.options import VmOptions

MIN_EDK2: Final = 128 * MIB
MIN_VM: Final = 144 * MIB
MIN_REALM: Final = 224 * MIB
MIN_REALM_WITH_NETWORK: Final = 1024 * MIB  # from this version on:
_SMALL_POOL_SINCE: Final = (7, 3)
_POOL_PARAMETER: Final = "swiotlb="
_BANNER: Final = re.compile(rb"Linux version (\d{1,4})\.(\d{1,4})")
#: A kernel of this size is probably a distribution's; smaller ones may need less memory.
_LARGE_KERNEL: Final = 24 * MIB


def memory_warning(options: VmOptions, config: GuestConfig) -> str:
    """Return a line for the user if the kernel may need more memory, else an empty string."""
    given = f"-m {options.ram_size // MIB}M may be too little"
    if options.firmware is not None and options.ram_size < MIN_EDK2:
        return f"{given}: EDK2 needs {MIN_EDK2 // MIB}M; with less it crashes"
    kernel = [each.data for each in config.segments if each.name == "kernel"]
    if sum(map(len, kernel)) < _LARGE_KERNEL:
        return ""
    kind, minimum = ("VM", MIN_VM) if options.realm is None else ("realm", MIN_REALM)
    if options.ram_size < minimum:
        return (
            f"{given}: Debian's kernel needs {minimum // MIB}M in a {kind}; with less it ends"
            " silently"
        )
    if _may_fill_pool(options) and _version(kernel) >= _SMALL_POOL_SINCE:
        minimum = MIN_REALM_WITH_NETWORK
        return (
            f"{given}: with a network card this kernel needs {minimum // MIB}M in a realm, or the"
            f" parameter {_POOL_PARAMETER}512; with less it may hang"
        )
    return ""


def _may_fill_pool(options: VmOptions) -> bool:
    return (
        options.realm is not None
        and bool(options.networks)
        and options.ram_size < MIN_REALM_WITH_NETWORK
        and _POOL_PARAMETER not in options.bootargs
    )


def _version(kernel: list[bytes]) -> tuple[int, int]:
    """Return the version in a Linux kernel's banner; (0, 0) if there is none."""
    for match in filter(None, map(_BANNER.search, kernel)):
        return int(match[1]), int(match[2])
    return 0, 0
