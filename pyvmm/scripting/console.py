"""The console of a guest: its output so far, and waiting for a text in it."""

import re
import time
from typing import Final

from pyvmm.vm.control.client import Client
from pyvmm.vm.exit_code import ExitCode, Failure

_WINDOW: Final = 64 << 10  # how far back a match may begin, in bytes


class ConsoleReader:
    """Receives the console's output, from its beginning."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.output = bytearray()
        self._is_closed = False

    def read(self) -> bytes:
        """Return the output so far."""
        place = self._client.api.console_attach()
        while place.position + len(self.output) < place.end and not self._is_closed:
            self._client.listen(self)
        return bytes(self.output)

    def expect(self, pattern: re.Pattern[str], timeout: float | None) -> re.Match[str]:
        """Wait for a text.

        Raises:
            Failure: the time is up, or the guest has ended without it.
        """
        self._client.api.console_attach()
        deadline = None if timeout is None else time.monotonic() + timeout
        searched = 0
        while True:
            text = self.output[max(searched - _WINDOW, 0) :].decode(errors="replace")
            searched = len(self.output)
            if (match := pattern.search(text)) is not None:
                return match
            if self._is_closed:
                line = f"the guest ended before its console showed {pattern.pattern!r}"
                raise Failure(ExitCode.ENDED, line)
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not self._client.listen(self, left):
                line = f"the console did not show {pattern.pattern!r} within {timeout:g} s"
                raise Failure(ExitCode.TIMEOUT, line)

    def state_changed(self, status: object) -> None:
        """Ignore it: nobody has asked for it."""

    def console_output(self, position: int, data: bytes) -> None:
        """Keep output."""
        del position
        self.output += data

    def console_closed(self) -> None:
        """Note that no more will come."""
        self._is_closed = True
