"""Network backend: user-mode networking through passt(1), without any privilege.

passt translates the guest's Ethernet into sockets of the host's own kernel, answers its DHCP,
ARP and DNS, and maps the gateway's address to the host's loopback.  It talks to us over a Unix
stream socket, each frame behind its length (32 bits, big endian).
"""

import re
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.virtio.net import MAX_FRAME, NetPort

#: The longest packets that passt makes.  For an interpreted guest the cost of a transfer is in
#: the number of packets, not of bytes.
MTU = 65520

_LENGTH_SIZE = 4
_BUFFER_SIZE = 512 << 10
_START_TIMEOUT = 10  # seconds; it takes a few hundredths
_NOISE = ("Failed to send", "Don't run as root")  # what passt says where all is well

_FORWARD = re.compile(r"(tcp|udp):(?:(?:([^:]*):)?)(\d+)-:?(\d+)")


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the host whose connections go to the guest."""

    protocol: str  # "tcp" or "udp"
    host_address: str
    host_port: int
    guest_port: int

    @classmethod
    def parse(cls, text: str) -> "PortForward":
        """Read ``tcp|udp:[ADDRESS:]PORT-:GUEST_PORT``; the address is loopback if left out.

        Raises: UserError if it is nothing of that form.
        """
        match = _FORWARD.fullmatch(text)
        if match is None or not all(0 < int(match[i]) < 1 << 16 for i in (3, 4)):
            raise UserError(f"hostfwd={text}: expected tcp:8080-:80 or udp:127.0.0.1:5353-:53")
        return cls(match[1], match[2] or "127.0.0.1", int(match[3]), int(match[4]))

    def argument(self) -> list[str]:
        """Return this forward as passt wants it."""
        option = "--tcp-ports" if self.protocol == "tcp" else "--udp-ports"
        return [option, f"{self.host_address}/{self.host_port}:{self.guest_port}"]


class PasstBackend:
    """Frames through a passt process, which ends when this end of its socket closes.

    Raises: UserError if passt is not installed or refuses to start, in its own words.
    """

    mtu = MTU

    def __init__(
        self, loop: IoEvents, forwards: Sequence[PortForward] = (), *, command: str = "passt"
    ) -> None:
        self._loop = loop
        self._socket = _spawn(command, forwards)
        self._socket.setblocking(False)
        self._port: NetPort | None = None
        self._received = bytearray(_BUFFER_SIZE)
        self._received_size = 0
        self._lock = Lock()  # guards the two below: the vCPU sends, the loop finishes what is left
        self._unsent = b""
        self._is_closed = False

    def start(self, port: NetPort) -> None:
        """Deliver frames to ``port`` from now on."""
        self._port = port
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def close(self) -> None:
        """End passt."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    # --- guest to host ------------------------------------------------------------------------

    def send(self, frame: list[memoryview]) -> bool:
        """Send one frame; False while an earlier one is still on its way."""
        size = sum(map(len, frame))
        with self._lock:
            if self._is_closed:
                return True  # an unplugged cable
            if self._unsent:
                return False
            head = size.to_bytes(_LENGTH_SIZE, "big")
            done = self._write([head, *frame])
            if done is None:
                return True
            if not done:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return False
            if done < size + _LENGTH_SIZE:  # a stream: the rest must follow before anything else
                self._unsent = b"".join([head, *frame])[done:]
                self._loop.add_writer(self._socket.fileno(), self._flush)
            return True

    def _write(self, buffers: Sequence[bytes | memoryview]) -> int | None:
        """Return how many bytes went out, None if passt is gone."""
        try:
            return self._socket.sendmsg(buffers)
        except BlockingIOError:
            return 0
        except OSError:
            return None

    def _flush(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            done = self._write([self._unsent]) if self._unsent else None
            self._unsent = self._unsent[done:] if done is not None else b""
            if self._unsent:
                return
            self._loop.remove_writer(self._socket.fileno())
        if self._port:
            self._port.sendable()

    # --- host to guest ------------------------------------------------------------------------

    def resume(self) -> None:
        """Deliver again what the guest had no buffers for."""
        self._loop.call_soon(self._redeliver)

    def _redeliver(self) -> None:
        if not self._is_closed and self._deliver():
            self._loop.add_reader(self._socket.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            room = memoryview(self._received)[self._received_size :]
            size = self._socket.recv_into(room)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._received_size += size
        if not size:
            self._unplug()
        elif not self._deliver() and not self._is_closed:
            self._loop.remove_reader(self._socket.fileno())

    def _deliver(self) -> bool:
        """Give the guest all whole frames; False if it has no buffers for some."""
        whole = memoryview(self._received)[: self._received_size]
        frames: list[memoryview] = []
        start = 0
        while self._received_size - start >= _LENGTH_SIZE:
            size = int.from_bytes(whole[start : start + _LENGTH_SIZE], "big")
            if size > MAX_FRAME:
                self._unplug()  # this is not passt's protocol any more
                return False
            end = start + _LENGTH_SIZE + size
            if end > self._received_size:
                break
            frames.append(whole[start + _LENGTH_SIZE : end])
            start = end
        taken = self._port.receive(frames) if self._port and frames else 0
        used = sum(map(len, frames[:taken])) + _LENGTH_SIZE * taken
        rest = bytes(whole[used:])
        self._received[: len(rest)] = rest
        self._received_size = len(rest)
        return taken == len(frames)

    def _unplug(self) -> None:
        """Passt is gone: the guest sees its cable unplugged."""
        self.close()
        if self._port:
            self._port.set_link(is_up=False)


def _spawn(command: str, forwards: Sequence[PortForward]) -> socket.socket:
    """Start passt on one end of a socket pair and return the other.

    It puts itself into the background once it is ready, so the end of the command says whether it
    could start, and nothing is left to watch or to kill.
    """
    ours, theirs = socket.socketpair()
    arguments = [argument for forward in forwards for argument in forward.argument()]
    with theirs:
        fd = str(theirs.fileno())
        try:
            result = subprocess.run(
                [command, "--quiet", "--fd", fd, "--mtu", str(MTU), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_START_TIMEOUT,
                check=False,
                text=True,
                errors="replace",
            )
        except FileNotFoundError:
            ours.close()
            raise UserError(
                "-n mode=user needs passt: install the package passt, or give -n mode=tap"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            ours.close()
            raise UserError(f"passt could not be started: {error}") from None
    if result.returncode:
        ours.close()
        words = [
            line for line in result.stderr.splitlines() if line and not line.startswith(_NOISE)
        ]
        raise UserError(f"passt: {words[-1] if words else f'exit status {result.returncode}'}")
    return ours
