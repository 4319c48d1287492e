"""A minimal debugger's end of the protocol: send commands, read answers."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pyvmm.vm.gdb.packets import checksum, unescape

PATIENCE = 30.0
_ESCAPED = b"}$#*"


@dataclass(frozen=True)
class Stopped:
    """A stop reply."""

    signal: int
    thread: int
    reasons: dict[str, str]


class Client:
    """One connection; a context manager that closes it."""

    def __init__(self, address: str | Path) -> None:
        """Connect to ``host:port`` or a Unix socket."""
        if isinstance(address, Path):
            self.socket = _connect_unix(address)
        else:
            host, _, port = address.rpartition(":")
            self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(PATIENCE)
        self._received = b""
        self._sends_acks = True

    def send(self, payload: bytes | str) -> None:
        """Send a packet."""
        data = payload.encode() if isinstance(payload, str) else payload
        body = b"".join(
            bytes((ord("}"), byte ^ 0x20)) if byte in _ESCAPED else bytes((byte,)) for byte in data
        )
        self.socket.sendall(b"$" + body + b"#" + checksum(body))

    def receive(self) -> bytes:
        """Return the next packet's payload, its checksum checked."""
        while (match := re.match(rb"[+-]*\$([^#]*)#(..)", self._received, re.DOTALL)) is None:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(self._received)
            self._received += data
        self._received = self._received[match.end() :]
        assert match[2] == checksum(match[1])
        if self._sends_acks:
            with suppress(BrokenPipeError):  # it was the last one
                self.socket.sendall(b"+")
        return unescape(match[1])

    def ask(self, payload: bytes | str) -> str:
        """Send a command and return its answer."""
        self.send(payload)
        return self.receive().decode("latin1")

    def interrupt(self) -> Stopped:
        """Press Ctrl-C."""
        self.socket.sendall(b"\x03")
        return self.wait()

    def wait(self) -> Stopped:
        """Wait for a stop."""
        return stopped(self.receive().decode())

    def go(self, command: str = "vCont;c") -> Stopped:
        """Resume and wait for the next stop."""
        self.send(command)
        return self.wait()

    def no_acks(self) -> None:
        """Switch acknowledgements off."""
        assert self.ask("QStartNoAckMode") == "OK"
        self._sends_acks = False

    def register(self, number: int, size: int = 8) -> int:
        """Read a register."""
        data = bytes.fromhex(self.ask(f"p{number:x}"))
        assert len(data) == size
        return int.from_bytes(data, "little")

    def is_closed(self) -> bool:
        """Wait until the other end has closed."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        """Disconnect without a message."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect_unix(path: Path) -> socket.socket:
    """Connect as soon as the stub listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            assert time.monotonic() < deadline, f"nobody listens at {path}"
            time.sleep(0.01)
        else:
            return connection


def stopped(reply: str) -> Stopped:
    """Parse a stop reply."""
    assert reply.startswith("T"), reply
    pairs = dict(pair.split(":", 1) for pair in reply[3:].rstrip(";").split(";"))
    thread = int(pairs.pop("thread"), 16)
    return Stopped(int(reply[1:3], 16), thread, pairs)
