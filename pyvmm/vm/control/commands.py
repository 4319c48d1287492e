"""A client's commands in a guest, each with one thread for output and one for input."""

import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import NoThreadError
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.agent.command import AgentError, Command, Output
from pyvmm.vm.agent.protocol import MAX_SIGNAL
from pyvmm.vm.control.api import MAX_FED, CommandNotifications

_END_OF_INPUT: Final = b""

#: Runs a function in a thread of the client's session; it ends silently when the client is gone.
Pump = Callable[[Callable[[], None]], None]


class Commands:
    """The running commands of one client."""

    def __init__(self, tell: CommandNotifications, pump: Pump) -> None:
        self._tell = tell
        self._pump = pump
        self._running: dict[int, _Running] = {}
        self._last_number = 0

    def start(
        self,
        agent: AgentClient,
        argv: Sequence[str],
        env: Mapping[str, str],
        directory: str,
        terminal: tuple[int, int] | None = None,
    ) -> int:
        """Start a command and its notifications; return its number.

        Raises:
            UserError: the guest's agent refuses or does not exist, or no thread is available.
        """
        running = _Running(agent.start(argv, env, directory, terminal))
        self._last_number += 1
        number = self._last_number
        self._running[number] = running
        try:
            self._pump(lambda: running.feed(lambda size: self._tell.exec_taken(number, size)))
            self._pump(lambda: self._tell_output(number, running))
        except NoThreadError:
            running.close()
            del self._running[number]
            raise
        return number

    def write(self, number: int, data: bytes) -> None:
        """Give a command input.

        Raises:
            UserError: too much input is waiting, or the command does not exist.
        """
        self._find(number).write(data)

    def end_input(self, number: int) -> None:
        """Close its input."""
        self._find(number).write(_END_OF_INPUT)

    def signal(self, number: int, signal: int) -> None:
        """Send it a signal.

        Raises:
            UserError: the signal or the command does not exist.
        """
        if not 0 < signal <= MAX_SIGNAL:
            raise UserError(f"signal {signal}: give 1 to {MAX_SIGNAL}")
        self._find(number).command.signal(signal)

    def resize(self, number: int, columns: int, rows: int) -> None:
        """Give its terminal another size.

        Raises:
            UserError: no terminal can have that size, or the command does not exist.
        """
        self._find(number).command.resize(columns, rows)

    def close(self) -> None:
        """Kill all running commands."""
        for running in list(self._running.values()):
            running.close()

    def _find(self, number: int) -> "_Running":
        if number not in self._running:
            raise UserError(f"command {number} is not running: it has ended or was never started")
        return self._running[number]

    def _tell_output(self, number: int, running: "_Running") -> None:
        try:
            while isinstance(output := running.command.read(), Output):
                self._tell.exec_output(number, output.stream.name.lower(), output.data)
        except AgentError as error:
            status, signal, line = 0, 0, str(error)
        else:
            status, signal, line = output.exit_status, output.signal, ""
        finally:
            running.close()
            self._running.pop(number, None)
        self._tell.exec_ended(number, status, signal, line)


class _Running:
    """A command and its waiting input."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._input: SimpleQueue[bytes | None] = SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Queue input."""
        with self._lock:
            if self._waiting + len(data) > MAX_FED:
                raise UserError(
                    f"too much input is waiting; the limit is {MAX_FED} bytes: wait for exec_taken"
                )
            self._waiting += len(data)
        self._input.put(data)

    def feed(self, taken: Callable[[int], None]) -> None:
        """Pass input to the command until it ends."""
        while (data := self._input.get()) is not None:
            try:
                if data == _END_OF_INPUT:
                    self.command.end_input()
                    continue
                self.command.feed(data)
            except AgentError:
                return  # exec_ended reports it
            with self._lock:
                self._waiting -= len(data)
            taken(len(data))

    def close(self) -> None:
        """End the command and its input thread."""
        self.command.close()
        self._input.put(None)
