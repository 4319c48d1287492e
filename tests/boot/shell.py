"""A guest's shell from outside: type a command, and read its output and status."""

import os
import re
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROMPT = re.compile(rb"[#$] (\x1b\[6n)?$")  # busybox asks where the cursor is
#: Generous: the machine may be busy with something else.
PATIENCE = 180.0
#: How a command's end is told; typed, it looks different.
_END = re.compile(rb"\r?\n<(\d+)>\r?\n")
#: What a terminal's line surely takes; a multiple of the four characters of a byte.
_TYPED_AT_ONCE = 800
_ASK = "printf '\\n<%d>\\n' $?\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command."""

    status: int
    output: str


class Shell:
    """Both ends of a guest's console.

    Args:
        in_fd: what is written there is typed.
        out_fd: what the guest shows comes from there.
    """

    def __init__(self, in_fd: int, out_fd: int) -> None:
        self.log = b""
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._seen = 0  # how much of the log was expected already

    def type(self, text: str | bytes) -> None:
        """Type text."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            data = data[os.write(self._in_fd, data) :]

    def expect(self, pattern: re.Pattern[bytes], patience: float = PATIENCE) -> re.Match[bytes]:
        """Return the first match in the output that was not searched yet.

        Raises: AssertionError, with the last words, if it does not come.
        """
        deadline = time.monotonic() + patience
        while True:
            match = pattern.search(self.log, self._seen)
            if match is not None:
                self._seen = match.end()
                return match
            is_open = self._read(deadline - time.monotonic())
            assert is_open, f"no {pattern.pattern!r}; last words:\n{self._last_words()}"

    def read_all(self) -> str:
        """Return all output until the other end is closed."""
        while self._read(PATIENCE):
            pass
        return self.log.decode(errors="replace")

    def log_in(self) -> None:
        """Wait for the prompt, then turn off echo, prompt and kernel messages."""
        self.expect(PROMPT)
        answer = self.run("stty -echo; set +m; PS1=; PS2=; dmesg -n 1")
        assert answer.status == 0, answer.output

    def run(self, command: str, patience: float = PATIENCE) -> Answer:
        """Run a command and return its answer."""
        start = self._seen
        self.type(f"{command}\n{_ASK}")
        end = self.expect(_END, patience)
        output = self.log[start : end.start()].decode(errors="replace").replace("\r\n", "\n")
        return Answer(int(end[1]), output.strip())

    def store(self, path: str, data: bytes) -> None:
        """Make an executable file in the guest."""
        text = "".join(f"\\x{byte:02x}" for byte in data)
        for at in range(0, len(text), _TYPED_AT_ONCE):
            answer = self.run(f"printf '{text[at : at + _TYPED_AT_ONCE]}' >>{path}")
            assert answer == Answer(0, "")
        assert self.run(f"chmod +x {path}") == Answer(0, "")

    def _read(self, patience: float) -> bool:
        """Read what is available; return False if nothing came, or nothing more will."""
        if patience <= 0 or not select.select([self._out_fd], [], [], patience)[0]:
            return False
        try:
            data = os.read(self._out_fd, 1 << 16)
        except OSError:  # a pseudo-terminal without its other end
            return False
        self.log += data
        return bool(data)

    def _last_words(self) -> str:
        return self.log[-2000:].decode(errors="replace")


class Piped:
    """A program at the other end of a shell; a context manager that kills it at the latest."""

    def __init__(self, *command: str | Path) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._ends = self._process.stdin, self._process.stdout
        self.shell = Shell(*(end.fileno() for end in self._ends))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for end in self._ends:
            end.close()
