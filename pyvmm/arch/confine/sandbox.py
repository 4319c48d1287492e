"""A sandbox: what a process enters once its files are open; nothing leads out of it."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.confine import calls, landlock
from pyvmm.arch.confine.landlock import Beneath, python_files
from pyvmm.arch.confine.seccomp import Library
from pyvmm.arch.errors import UserError

_ADVICE: Final = "give --sandbox auto to run without it"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a process may still do.

    Args:
        files: the files that it may open.
        calls: the system calls that it may make.
        denies_tcp: whether it needs no new TCP socket.
    """

    files: Sequence[Beneath]
    calls: calls.Calls
    denies_tcp: bool = True

    def enter(
        self,
        confine_threads: Callable[[int], None] = landlock.confine_thread,
        *,
        is_strict: bool = False,
    ) -> None:
        """Enter it, as far as this host can confine a process.

        Args:
            confine_threads: makes all threads of the process enter a Landlock ruleset.
            is_strict: refuse what would be confined only in part.

        Raises:
            UserError: this host lacks a part, if it is strict.
        """
        _limit()
        with _part("Landlock", is_strict=is_strict):
            self._confine_files(confine_threads)
        with _part("seccomp", is_strict=is_strict):
            Library().confine(self.calls)

    def _confine_files(self, confine_threads: Callable[[int], None]) -> None:
        ruleset = landlock.make_ruleset(self.files, denies_tcp=self.denies_tcp)
        try:
            confine_threads(ruleset)
        finally:
            os.close(ruleset)


@contextmanager
def _part(what: str, *, is_strict: bool) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_strict:
            raise UserError(f"--sandbox strict: no {what}: {error}: {_ADVICE}") from None


def _limit() -> None:
    """Allow no core file, which would contain a guest's memory, and no more files than now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))


def parts() -> tuple[list[str], list[str]]:
    """Return which parts of a sandbox this host has, and why it lacks others."""
    present, lacking = ["no_new_privs", "limits"], []
    if version := landlock.version():
        present.append(f"Landlock {version}")
    else:
        lacking.append("no Landlock in this kernel")
    try:
        present.append(f"seccomp (libseccomp {Library().version})")
    except OSError:
        lacking.append("no libseccomp.so.2")
    return present, lacking


def is_effective() -> bool:
    """Return whether a new process of this host that enters a sandbox can open no file."""
    command = (sys.executable, "-P", "-m", __name__)
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


if __name__ == "__main__":
    allowed = {**calls.PROGRAM, **calls.MEMORY, **calls.DESCRIPTORS, **calls.FILES}
    Sandbox(python_files(("pyvmm",)), allowed).enter(is_strict=True)
    with suppress(PermissionError):
        os.close(os.open("/etc/passwd", os.O_RDONLY))
        sys.exit(1)
