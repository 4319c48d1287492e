"""Landlock: after it, a process can open only files beneath the paths that it has named.

The kernel checks paths when a file is opened; what is open already stays usable.
"""

import ctypes
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from struct import Struct
from typing import Final

_CREATE_RULESET: Final = 444  # these numbers are the same on all architectures
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_GET_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class Access(IntFlag):
    """What may be done with files; the names of <linux/landlock.h>."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # rename and link between directories
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ: Final = Access.READ_FILE | Access.READ_DIR
#: Everything but to execute, and to make devices.
WRITE: Final = ~(Access.EXECUTE | Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.IOCTL_DEV)
REMOVE: Final = Access.REMOVE_FILE | Access.REMOVE_DIR

_OF_FILES: Final = (
    Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
)
_FIRST_VERSION: Final = Access(Access.REFER - 1)
#: What later versions of the kernel's interface can deny.
_LATER: Final = {2: Access.REFER, 3: Access.TRUNCATE, 5: Access.IOCTL_DEV}
_NET_VERSION: Final = 4
_ALL_OF_TCP: Final = 3  # to bind and to connect
_SCOPE_VERSION: Final = 6
_ABSTRACT_SOCKETS: Final = 1


_ruleset_attr: Final = Struct("QQQ")  # files, TCP, scopes that are handled
_path_beneath_attr: Final = Struct("=Qi")  # access, descriptor of the path
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Beneath:
    """What may be done with a file, or with everything beneath a directory."""

    path: Path
    access: Access


def version() -> int:
    """Return the version of the kernel's interface, 0 if it has none."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, 0, _GET_VERSION)), 0)


def make_ruleset(rules: Iterable[Beneath], *, denies_tcp: bool = True) -> int:
    """Return a descriptor of a ruleset; it allows files by the rules, and denies TCP if it can.

    A rule for a path that does not exist is ignored.

    Raises:
        OSError: the kernel has no Landlock.
    """
    abi = version()
    handled = _FIRST_VERSION
    for since, right in _LATER.items():
        handled |= right if abi >= since else 0
    attr = _ruleset_attr.pack(
        handled,
        _ALL_OF_TCP if denies_tcp and abi >= _NET_VERSION else 0,
        _ABSTRACT_SOCKETS if abi >= _SCOPE_VERSION else 0,
    )
    sizes = {_NET_VERSION: 16, _SCOPE_VERSION: 24}
    size = max((size for since, size in sizes.items() if abi >= since), default=8)
    ruleset = _call(_CREATE_RULESET, attr, size, 0)
    try:
        for rule in rules:
            _add(ruleset, rule, handled)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _add(ruleset: int, rule: Beneath, handled: Access) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            access = rule.access & handled & (~Access(0) if is_directory else _OF_FILES)
            attr = _path_beneath_attr.pack(access, fd)
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, attr, 0)
        finally:
            os.close(fd)


def confine_thread(ruleset: int) -> None:
    """Make this thread, and those that it starts, enter a ruleset.

    Raises:
        OSError: it cannot.
    """
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _error()
    _call(_RESTRICT_SELF, ruleset, 0)


def python_files(packages: Sequence[str]) -> list[Beneath]:
    """Return rules to read what an interpreter loads later: modules, libraries, time zones."""
    import sys  # noqa: PLC0415  only what is loaded anyway

    root = Path(__file__).parents[3]
    paths = {Path(each) for each in (*_SYSTEM, sys.prefix, sys.base_prefix, *sys.path)}
    paths |= {Path(os.__file__).parent, *(root / each for each in packages)}
    return [Beneath(path, READ) for path in sorted(paths - _TOO_MUCH) if path.is_absolute()]


_SYSTEM: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
#: On a module path by mistake; the prefix of the system's Python is /usr, whose libraries suffice.
_TOO_MUCH: Final = frozenset({Path("/"), Path("/usr"), Path.home(), Path("/home"), Path("/tmp")})  # noqa: S108


def _call(number: int, *arguments: int | bytes) -> int:
    words = (each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments)
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
