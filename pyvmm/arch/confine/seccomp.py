"""seccomp: after it, a process can make only the system calls that it has named.

Through libseccomp, which knows the numbers of the calls on each architecture (ADR 19).
"""

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

_LIBRARY: Final = "libseccomp.so.2"
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_MASKED_EQUAL: Final = 7
_ALL_THREADS: Final = 4  # SCMP_FLTATR_CTL_TSYNC
_OPTIMIZE: Final = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_BINARY_TREE: Final = 2
_WORD: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Argument:
    """A condition: an argument of a call has this value in these bits."""

    index: int
    value: int
    mask: int = _WORD


#: A call is allowed if all conditions of one of these hold; ``ALWAYS`` if it is always allowed.
Conditions = Sequence[tuple[Argument, ...]]
ALWAYS: Final[Conditions] = ((),)


_compare: Final = Struct("IiQQ")  # argument, operator, mask, value


class Library:
    """libseccomp.

    Raises:
        OSError: it is not installed.
    """

    def __init__(self) -> None:
        lib = self._lib = ctypes.CDLL(_LIBRARY)
        context, number = ctypes.c_void_p, ctypes.c_uint32
        lib.seccomp_init.restype = context
        lib.seccomp_init.argtypes = [number]
        lib.seccomp_attr_set.argtypes = [context, ctypes.c_int, number]
        lib.seccomp_rule_add_array.argtypes = [
            *(context, number, ctypes.c_int, ctypes.c_uint),
            ctypes.c_char_p,
        ]
        lib.seccomp_load.argtypes = lib.seccomp_release.argtypes = [context]
        lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
        lib.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint)

    @property
    def version(self) -> str:
        """Its version."""
        return ".".join(map(str, self._lib.seccomp_version()[:3]))

    def confine(self, allowed: Mapping[str, Conditions]) -> None:
        """Allow this process only these calls; others fail with EPERM, in all of its threads.

        `clone3` fails with ENOSYS: its flags are in memory, where a filter cannot read them, and a
        C library then uses `clone`.

        Raises:
            OSError: the kernel refuses the filter.
        """
        lib = self._lib
        context = lib.seccomp_init(_ERRNO | errno.EPERM)
        if not context:
            raise MemoryError
        try:
            self._set(context, _ALL_THREADS, 1)
            lib.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)  # since 2.5; else a list
            self._add(context, _ERRNO | errno.ENOSYS, "clone3", ())
            for name, alternatives in allowed.items():
                for conditions in alternatives:
                    self._add(context, _ALLOW, name, conditions)
            _check(lib.seccomp_load(context))
        finally:
            lib.seccomp_release(context)

    def _set(self, context: int, attribute: int, value: int) -> None:
        _check(self._lib.seccomp_attr_set(context, attribute, value))

    def _add(self, context: int, action: int, name: str, conditions: tuple[Argument, ...]) -> None:
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # another architecture's
        compares = b"".join(
            _compare.pack(each.index, _MASKED_EQUAL, each.mask, each.value) for each in conditions
        )
        _check(self._lib.seccomp_rule_add_array(context, action, number, len(conditions), compares))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
