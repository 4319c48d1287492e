"""A guest of this program: created, used and removed in one ``with`` block.

::

    with pyvmm.realm(kernel="Image", initrd="initrd.img", disk="rootfs.img") as guest:
        print(guest.exec(["uname", "-a"]).text)
        token = guest.attest(challenge)
"""

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self, TypeVar

from pyvmm.arch.errors import UserError
from pyvmm.scripting.console import ConsoleReader
from pyvmm.scripting.errors import fail
from pyvmm.scripting.execution import Completed, Execution
from pyvmm.scripting.options import Value, arguments
from pyvmm.vm.agent.protocol import CHALLENGE_SIZE
from pyvmm.vm.control.api import State, Statistics, Status
from pyvmm.vm.control.client import Client, Gone, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure

__all__ = ["Completed", "Guest", "attach", "normal_vm", "realm"]

T = TypeVar("T")
_PATIENCE: Final = 60.0  # seconds to wait for an agent on a silent console


def realm(
    kernel: str | Path | None = None, *, name: str | None = None, **options: Value
) -> "Guest":
    """Return a realm that is created when the ``with`` block begins.

    Args:
        kernel: an arm64 kernel; None is the built-in guest.
        name: of the instance; by default, a unique one.
        options: of `pyvmm run`, by their long names, with _ for - (``mem="1G"``, ``disk=[...]``).
    """
    return Guest(name, {"kernel": kernel, "realm": True, **options})


def normal_vm(
    kernel: str | Path | None = None, *, name: str | None = None, **options: Value
) -> "Guest":
    """Return a normal VM that is created when the ``with`` block begins; see ``realm``."""
    return Guest(name, {"kernel": kernel, **options})


def attach(name: str) -> "Guest":
    """Return an instance that exists already; a ``with`` block removes it at its end."""
    return Guest(name, None)


class Guest:
    """An instance.  Any thread may call any method; each call has a connection of its own.

    Every method raises ``UserError`` or ``Failure`` with the line that the command line would
    print.
    """

    def __init__(self, name: str | None, options: Mapping[str, Value] | None) -> None:
        self.name = name or f"py-{uuid.uuid4().hex[:12]}"
        self._arguments = None if options is None else arguments(options)

    def __repr__(self) -> str:
        return f"<pyvmm guest {self.name}>"

    def __enter__(self) -> Self:
        if self._arguments is not None:
            self.create()
        try:
            if self.status.state == State.NEW:
                self.start()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    # --- its life ---------------------------------------------------------------------------

    def create(self) -> None:
        """Create the instance: a realm is built and measured then, and does not run yet."""
        words = ("create", self.name, *(self._arguments or ()))
        self._verb(*words)

    def start(self) -> None:
        """Start it."""
        with self._connect() as client:
            client.api.start()

    def pause(self) -> None:
        """Pause every vCPU; return when all stand still."""
        with self._connect() as client:
            client.api.pause()

    def resume(self) -> None:
        """Resume the vCPUs."""
        with self._connect() as client:
            client.api.resume()

    def stop(self) -> None:
        """Stop it at once and flush its disks."""
        with self._connect() as client:
            client.api.stop()

    def destroy(self) -> None:
        """Stop it and remove all that is left of it; nothing if it is gone already."""
        with suppress(UserError):
            self._verb("destroy", self.name)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code that `pyvmm run` would return.

        Raises:
            Failure: the time (seconds) is up.
        """
        status = self.status
        if status.state in {State.STOPPED, State.DEAD}:
            return _result(status)
        words = () if timeout is None else ("--timeout", f"{timeout:g}")
        ended = self._run("wait", self.name, *words)
        if ended.returncode and ended.stderr:
            fail(ended.returncode, ended.stderr)
        return ended.returncode

    @property
    def status(self) -> Status:
        """Its state, and what is known about it."""
        return Directory.of_user().find(self.name)

    @property
    def rim(self) -> bytes:
        """The initial measurement of a realm; empty for a normal VM."""
        return bytes.fromhex(self.status.rim or "")

    def statistics(self) -> Statistics:
        """Return its counters and its use of resources."""
        with self._connect() as client:
            return client.api.statistics()

    # --- its console ------------------------------------------------------------------------

    def console(self) -> str:
        """Return the console's output so far; what is not UTF-8 is replaced."""
        read = self._while_it_runs(ConsoleReader.read, _PATIENCE)
        return (self._kept() if read is None else read).decode(errors="replace")

    def expect(self, pattern: str, timeout: float | None = _PATIENCE) -> re.Match[str]:
        """Wait until the console shows a regular expression; earlier output counts too."""
        wanted = re.compile(pattern)
        match = self._while_it_runs(lambda console: console.expect(wanted, timeout), None)
        if match is None:
            match = wanted.search(self._kept().decode(errors="replace"))
        if match is None:
            line = f"{self.name} ended before its console showed {pattern!r}"
            raise Failure(ExitCode.ENDED, line)
        return match

    def _while_it_runs(self, use: Callable[[ConsoleReader], T], patience: float | None) -> T | None:
        """Use the console; return None if the guest has ended, also meanwhile."""
        place = Directory.of_user()
        if place.console_log(self.name) is not None:
            return None
        try:
            with self._connect(patience) as client:
                return use(ConsoleReader(client))
        except (Gone, UserError):  # UserError: it is shut off
            if place.console_log(self.name) is None:
                raise
            return None

    def _kept(self) -> bytes:
        """Return the output of a guest that has ended."""
        return Directory.of_user().console_log(self.name) or b""

    def type(self, text: str | bytes) -> None:
        """Type on the console."""
        data = text.encode() if isinstance(text, str) else text
        with self._connect(None) as client:
            client.api.console_write(data)

    # --- its agent --------------------------------------------------------------------------

    def wait_agent(self, patience: float = _PATIENCE) -> None:
        """Wait for the guest's agent; give up after some seconds without console output."""
        with self._connect(None) as client:
            client.api.wait_agent(patience=patience)

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",  # noqa: A002  the name in subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a command in the guest; wait for its agent first.

        Args:
            argv: the command and its arguments.
            input: its standard input.
            env: environment variables.
            cwd: its working directory.
            timeout: kill it after so many seconds.
            check: raise ``subprocess.CalledProcessError`` if it does not end with 0.
        """
        with self._connect(None) as client:
            execution = Execution(client, input)
            done = execution.run(argv, env or {}, cwd, _PATIENCE, timeout)
        if check and done.returncode:
            raise subprocess.CalledProcessError(
                done.returncode, list(argv), done.stdout, done.stderr
            )
        return done

    def attest(self, challenge: bytes, patience: float = _PATIENCE) -> bytes:
        """Return an attestation token for a challenge of up to 64 bytes, padded with zeros."""
        if not 0 < len(challenge) <= CHALLENGE_SIZE:
            raise UserError(f"a challenge has 1 to {CHALLENGE_SIZE} bytes, not {len(challenge)}")
        with self._connect(None) as client:
            return client.api.attest(challenge.ljust(CHALLENGE_SIZE, b"\0"), patience=patience)

    # --- helpers ----------------------------------------------------------------------------

    def _connect(self, patience: float | None = _PATIENCE) -> Client:
        return connect(Directory.of_user(), self.name, patience)

    def _verb(self, *words: str) -> None:
        ended = self._run(*words)
        if ended.returncode:
            fail(ended.returncode, ended.stderr)

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = (sys.executable, "-m", "pyvmm", *words)
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )


def _result(status: Status) -> int:
    if status.state == State.DEAD:
        raise Failure(ExitCode.UNREACHABLE, f"{status.name} is dead")
    return status.result
