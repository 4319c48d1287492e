"""The guest agent as a program on this machine, at the other end of a socket."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pyvmm.vm import guests
from pyvmm.vm.agent.client import AgentClient

SOURCES = Path(guests.__file__).parent / "agent"
#: Freestanding: the kernel's headers, and no library.
COMPILE = (
    *("-std=gnu11", "-Os", "-ffreestanding", "-fno-stack-protector", "-fno-unwind-tables"),
    *("-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"),
)
LINK = ("-static", "-nostdlib", "-s")
#: Zig's compiler; its checks of undefined behaviour call a library.
ZIG = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl")


def source_digest() -> str:
    """Return the digest of the sources, which the binary must contain."""
    paths = sorted(SOURCES.iterdir())
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def _flags() -> list[str]:
    return [*COMPILE, f'-DSOURCE_DIGEST="{source_digest()}"']


def compile_for_guests(output: Path, scratch: Path) -> None:
    """Build the committed binary."""
    objects = [scratch / f"{source.stem}.o" for source in sorted(SOURCES.glob("*.c"))]
    for path in objects:
        source = SOURCES / f"{path.stem}.c"
        command = [*ZIG, *_flags(), "-fno-sanitize=all", "-c", str(source), "-o", str(path)]
        subprocess.run(command, check=True)
    subprocess.run([*ZIG, *LINK, *map(str, objects), "-o", str(output)], check=True)


def compile_here(output: Path) -> None:
    """Build an agent for this machine, with the compiler of the core."""
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    sources = map(str, sorted(SOURCES.glob("*.c")))
    subprocess.run([compiler, *_flags(), *LINK, *sources, "-o", str(output)], check=True)


class SocketPort:
    """A port that is a socket; it passes incoming data to a client."""

    def __init__(self, client: AgentClient, end: socket.socket) -> None:
        self.backlog = 0
        self._client = client
        self._end = end
        self._thread = threading.Thread(target=self._read, name="port", daemon=True)
        client.attach(self)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def send(self, data: bytes) -> bool:
        try:
            self._end.sendall(data)
        except OSError:
            return False
        return True

    def join(self) -> None:
        """Wait for the end of the reading."""
        self._thread.join()

    def _read(self) -> None:
        self._client.opened()
        with suppress(ConnectionResetError):  # the agent left something unread
            while data := self._end.recv(1 << 16):
                self._client.received(data)
        self._client.closed()


@contextmanager
def running_agent(program: Path, *arguments: str) -> Iterator[tuple[AgentClient, int]]:
    """Run an agent; give its client and its process."""
    ours, theirs = socket.socketpair()
    client = AgentClient()
    port = SocketPort(client, ours)
    with ours:
        with theirs:
            command: Sequence[str] = [str(program), *arguments, "0"]
            process = subprocess.Popen(command, stdin=theirs.fileno())
        port.start()
        try:
            client.wait_ready(10)
            yield client, process.pid
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            port.join()
            assert process.wait(10) == 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        compile_for_guests(guests.AGENT, Path(scratch))
        guests.AGENT.chmod(0o644)
