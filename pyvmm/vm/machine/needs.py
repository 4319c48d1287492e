"""Whether a guest has the memory that Debian's kernel needs; with less it ends, or hangs, silently.

A kernel reserves memory before it has a console: 64 MiB for contiguous allocations, and in a realm
a bounce pool, through which all data of its devices goes.  That has 64 MiB, or from Linux 7.3 on a
1024th of the memory, which a network card's receive buffers can fill so that no disk request is
ever done.  The figures are measured with Linux 7.2 and 7.3; docs/guests.md has them for readers.
"""

import re
from typing import Final

from pyvmm.host.guest import GuestConfig
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.options import VmOptions

LEAST_VM: Final = 144 * MIB
LEAST_REALM: Final = 224 * MIB
LEAST_REALM_WITH_NETWORK: Final = 1024 * MIB  # from this version on:
_SMALL_POOL_SINCE: Final = (7, 3)
_POOL_PARAMETER: Final = "swiotlb="
_BANNER: Final = re.compile(rb"Linux version (\d{1,4})\.(\d{1,4})")
#: A kernel of this size comes with all that a distribution builds in; others may need less.
_LARGE_KERNEL: Final = 24 * MIB


def memory_warning(options: VmOptions, config: GuestConfig) -> str:
    """Return a line for the user if the memory is short for the kernel; empty if it is not."""
    kernel = [each.data for each in config.segments if each.name == "kernel"]
    if sum(map(len, kernel)) < _LARGE_KERNEL:
        return ""
    given = f"-m {options.ram_size // MIB}M may be too little"
    kind, least = ("VM", LEAST_VM) if options.realm is None else ("realm", LEAST_REALM)
    if options.ram_size < least:
        return (
            f"{given}: Debian's kernel needs {least // MIB}M in a {kind}, and ends without a word"
            " with less"
        )
    if _may_fill_pool(options) and _version(kernel) >= _SMALL_POOL_SINCE:
        least = LEAST_REALM_WITH_NETWORK
        return (
            f"{given}: with a network card this kernel needs {least // MIB}M in a realm, or"
            f" {_POOL_PARAMETER}512 among its parameters, and may hang with less"
        )
    return ""


def _may_fill_pool(options: VmOptions) -> bool:
    return (
        options.realm is not None
        and options.network is not None
        and options.ram_size < LEAST_REALM_WITH_NETWORK
        and _POOL_PARAMETER not in options.bootargs
    )


def _version(kernel: list[bytes]) -> tuple[int, int]:
    """Return the version that a Linux kernel says it has; (0, 0) if it says none."""
    for match in filter(None, map(_BANNER.search, kernel)):
        return int(match[1]), int(match[2])
    return 0, 0
