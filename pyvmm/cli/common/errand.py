"""A command that the guest of `pyvmm run` runs in place of its console; the guest ends with it."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import start_thread
from pyvmm.cli.common.streams import is_in_background, write_all
from pyvmm.vm.agent.command import AgentError, Command, Output, Stream
from pyvmm.vm.control.lifecycle import Lifecycle
from pyvmm.vm.control.patience import settling
from pyvmm.vm.exit_code import Failure

_PATIENCE: Final = 120.0  # seconds without console output until the guest has no agent
_PACE: Final = 0.005  # seconds between two checks for the agent
_CHUNK: Final = 32 << 10
_FDS: Final = {Stream.STDOUT: 1, Stream.STDERR: 2}


@dataclass(frozen=True, slots=True)
class Request:
    """What the guest is to run."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""


class Errand:
    """The command, with the standard streams of this process.

    ``code`` is its exit status as in a shell; None if the guest ended first, or if there is an
    ``error``.
    """

    def __init__(self, request: Request, lifecycle: Lifecycle, *, is_synced: bool) -> None:
        self._request = request
        self._lifecycle = lifecycle
        self._is_synced = is_synced
        self._thread = threading.Thread(target=self._run, name="errand", daemon=True)
        self.code: int | None = None
        self.error: UserError | Failure | None = None

    def start(self) -> None:
        """Wait for the guest and run the command, in a thread; then end the guest."""
        start_thread(self._thread)

    def join(self) -> None:
        """Wait for the end of the thread; the guest has ended, so it is close."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._run_command()
        except (UserError, Failure) as error:
            # A guest that ends takes its agent along, which is no error.
            self.error = None if self._lifecycle.is_stopping else error
        finally:
            self._lifecycle.quit()

    def _run_command(self) -> None:
        request, has_settled = self._request, settling(self._lifecycle, _PATIENCE)
        while not has_settled():
            time.sleep(_PACE)
        agent = self._lifecycle.agent
        with agent.start(request.argv, request.env, request.directory) as command:
            feeder = threading.Thread(target=_feed, args=(command,), daemon=True)
            start_thread(feeder)
            while isinstance(output := command.read(), Output):
                write_all(_FDS[output.stream], output.data)
        if self._is_synced:
            agent.run(["sync"])
        self.code = output.code


def _feed(command: Command) -> None:
    """Pass standard input on, to its end."""
    try:
        while not is_in_background() and (data := os.read(0, _CHUNK)):
            command.feed(data)
    except (OSError, AgentError):
        pass  # the command's reader sees it too, or there is no input
    command.end_input()
