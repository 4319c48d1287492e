"""Run another program with Landlock: it opens its own files, and those that it is given.

``python -m pyvmm.arch.confine.program PATH... -- PROGRAM ARGUMENT...``; without Landlock in the
kernel, the program runs as it would otherwise.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pyvmm.arch.confine import landlock
from pyvmm.arch.confine.landlock import READ, WRITE, Access, Beneath

_SYSTEM: Final = ("/bin", "/etc", "/lib", "/lib64", "/opt", "/usr")
_DEVICES: Final = ("/dev/null", "/dev/urandom", "/dev/zero")


def confined(command: Iterable[str], files: Iterable[Path]) -> list[str]:
    """Return a command that runs another one, which may open these files and directories."""
    paths = map(str, files)
    return [sys.executable, "-P", "-m", __name__, *paths, "--", *command]


def main(words: list[str]) -> None:
    """Enter the sandbox, and become the program."""
    end = words.index("--")
    rules = [Beneath(Path(path), READ | Access.EXECUTE) for path in _SYSTEM]
    rules += [Beneath(Path(path), READ | Access.WRITE_FILE) for path in _DEVICES]
    rules += [Beneath(Path(path), WRITE | Access.IOCTL_DEV) for path in words[:end]]
    rules.append(Beneath(Path("/proc/self"), READ))
    with suppress(OSError):  # no Landlock
        landlock.confine_thread(landlock.make_ruleset(rules))
    try:
        os.execvp(words[end + 1], words[end + 1 :])  # noqa: S606  as the caller wants it
    except OSError as error:
        sys.exit(f"{words[end + 1]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
