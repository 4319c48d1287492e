"""The commands of one client of an instance, each with a thread for its output and its input."""

import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import NoThreadError
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.agent.command import AgentError, Command, Output
from pyvmm.vm.agent.protocol import MAX_SIGNAL
from pyvmm.vm.control.api import MUCH_FED, CommandNotifications

_END_OF_INPUT: Final = b""

#: Runs a function in a thread of the client's, which ends quietly when the client is gone.
Pump = Callable[[Callable[[], None]], None]


class Commands:
    """What one client has started and has not seen the end of."""

    def __init__(self, tell: CommandNotifications, pump: Pump) -> None:
        self._tell = tell
        self._pump = pump
        self._running: dict[int, _Running] = {}
        self._last_number = 0

    def start(
        self, agent: AgentClient, argv: Sequence[str], env: Mapping[str, str], directory: str
    ) -> int:
        """Start a command, and tell of it from now on; return its number.

        Raises:
            UserError: the guest's agent does not, there is none, or no thread for the command.
        """
        running = _Running(agent.start(argv, env, directory))
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
            UserError: more than may wait; no such command.
        """
        self._find(number).write(data)

    def end_input(self, number: int) -> None:
        """Close its input."""
        self._find(number).write(_END_OF_INPUT)

    def signal(self, number: int, signal: int) -> None:
        """Send it a signal.

        Raises:
            UserError: Linux has no such signal; no such command.
        """
        if not 0 < signal <= MAX_SIGNAL:
            raise UserError(f"signal {signal}: give 1 to {MAX_SIGNAL}")
        self._find(number).command.signal(signal)

    def close(self) -> None:
        """Kill what still runs."""
        for running in list(self._running.values()):
            running.close()

    def _find(self, number: int) -> "_Running":
        if number not in self._running:
            raise UserError(f"no command {number} runs: it has ended, or was never started here")
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
    """A command and the input that waits for it."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._input: SimpleQueue[bytes | None] = SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Take input."""
        with self._lock:
            if self._waiting + len(data) > MUCH_FED:
                raise UserError(f"more than {MUCH_FED} bytes of input would wait: see exec_taken")
            self._waiting += len(data)
        self._input.put(data)

    def feed(self, taken: Callable[[int], None]) -> None:
        """Pass input on until the command is over."""
        while (data := self._input.get()) is not None:
            try:
                if data == _END_OF_INPUT:
                    self.command.end_input()
                    continue
                self.command.feed(data)
            except AgentError:
                return  # told with the end
            with self._lock:
                self._waiting -= len(data)
            taken(len(data))

    def close(self) -> None:
        """End it and its feeding."""
        self.command.close()
        self._input.put(None)
