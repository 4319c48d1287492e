"""A command in a guest: its input is sent as fast as it reads, its output is collected."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.control.api import MAX_FED
from pyvmm.vm.control.client import Client
from pyvmm.vm.exit_code import ExitCode, Failure

_CHUNK: Final = 32 << 10
MAX_OUTPUT: Final = 64 << 20  # bytes, of stdout and stderr each


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that has ended; like ``subprocess.CompletedProcess``.

    ``returncode`` is -N if signal N ended it.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; what is not UTF-8 is replaced."""
        return self.stdout.decode(errors="replace")


class Execution:
    """One command, on a connection of its own; receives its notifications."""

    def __init__(self, client: Client, data: bytes) -> None:
        self._client = client
        self._data = memoryview(data)
        self._num_waiting = 0  # bytes sent and not taken
        self._is_input_open = True
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._ended: tuple[int, int] | None = None

    def run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        directory: str,
        patience: float,
        timeout: float | None,
    ) -> Completed:
        """Run the command to its end.

        Raises:
            UserError: the guest has no agent, the command cannot be started, or writes too much.
            Failure: the time is up (TIMEOUT; the command is killed), or the instance has ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        number = self._client.api.exec_start(
            [*argv], env={**env}, directory=directory, patience=patience
        )
        while self._ended is None:
            self._feed(number)
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not self._client.listen(self, left):
                line = f"{argv[0]} did not end within {timeout:g} s and was killed"
                raise Failure(ExitCode.TIMEOUT, line)
        status, signal = self._ended
        out, err = (bytes(self._output[name]) for name in ("stdout", "stderr"))
        return Completed(tuple(argv), -signal if signal else status, out, err)

    def _feed(self, number: int) -> None:
        """Send as much of the input as may wait in the instance, then its end."""
        while self._data and self._num_waiting + _CHUNK <= MAX_FED:
            part, self._data = self._data[:_CHUNK], self._data[_CHUNK:]
            self._num_waiting += len(part)
            self._post("exec_write", number=number, data=bytes(part))
        if not self._data and self._is_input_open:
            self._is_input_open = False
            self._post("exec_end_input", number=number)

    def _post(self, method: str, **params: object) -> None:
        self._client.post(method, params, lambda: None)

    # --- notifications of the instance ----------------------------------------------------------

    def exec_output(self, number: int, stream: str, data: bytes) -> None:
        """Keep output."""
        del number
        kept = self._output[stream]
        kept += data
        if len(kept) > MAX_OUTPUT:
            raise UserError(f"the command wrote more than {MAX_OUTPUT >> 20} MiB: use a file")

    def exec_taken(self, number: int, size: int) -> None:
        """Send more."""
        del number
        self._num_waiting -= size

    def exec_ended(self, number: int, exit_status: int, signal: int, error: str) -> None:
        """Note the end."""
        del number
        if error:
            raise UserError(error)
        self._ended = exit_status, signal
