"""GDB, controlled by a test through its machine interface."""

import re
import shutil
import signal
from collections.abc import Mapping

from tests.boot.shell import Piped

GDB = shutil.which("gdb-multiarch")
_DONE = re.compile(rb"^\^(done|running|connected|exit|error).*\n", re.MULTILINE)
_STOPPED = re.compile(rb"^\*stopped,(.*)\n", re.MULTILINE)
_FIELD = re.compile(r'([\w-]+)="([^"]*)"')


class Gdb(Piped):
    """A GDB connected to a stub."""

    def __init__(self, address: str) -> None:
        assert GDB is not None
        super().__init__(GDB, "-nx", "-q", "--interpreter=mi2")
        self.do(f"-target-select remote {address}")

    def do(self, command: str) -> str:
        """Run a command of the machine interface, or of the command line; return its output."""
        start = len(self.shell.log)
        self.shell.type(f"{command}\n")
        done = self.shell.expect(_DONE)
        said = self.shell.log[start : done.end()].decode(errors="replace")
        assert done[1] != b"error", said
        return said

    def value(self, expression: str) -> int:
        """Return the value of an expression, 64 bits."""
        said = self.do(f'-data-evaluate-expression "(unsigned long)({expression})"')
        found = re.search(r'value="(\d+)"', said)
        assert found is not None, said
        return int(found[1])

    def stopped(self) -> Mapping[str, str]:
        """Wait for the next stop; return its description."""
        return dict(_FIELD.findall(self.shell.expect(_STOPPED)[1].decode()))

    def go(self, command: str = "-exec-continue") -> Mapping[str, str]:
        """Resume and wait for the next stop."""
        self.do(command)
        return self.stopped()

    def interrupt(self) -> Mapping[str, str]:
        """Press Ctrl-C, and wait for the stop."""
        self._process.send_signal(signal.SIGINT)
        return self.stopped()
