"""Network backend: frames through a stream socket, to a program that implements the network.

Each frame follows its length (32 bits, big endian), as in passt(1).
"""

import socket
import subprocess
from collections.abc import Sequence
from threading import Lock

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.net_user import MTU
from pyvmm.devices.virtio.net import MAX_FRAME, NetBackend, NetPort

_LENGTH_SIZE = 4
#: Bytes read at once: several of the longest frames.
BUFFER_SIZE = 512 << 10
_SEND_BUFFER = 4 << 20
_SO_SNDBUFFORCE = 32
_START_TIMEOUT = 10  # seconds; usually it takes a few hundredths
_NOISE = (  # harmless messages of passt
    "Failed to send",
    "Don't run as root",
    "Started as root",
    "No IPv6 nameserver",
)


def pack_frame(frame: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the parts of a frame on the stream."""
    return [sum(map(len, frame)).to_bytes(_LENGTH_SIZE, "big"), *frame]


def whole_frames(stream: memoryview) -> list[memoryview]:
    """Return the complete frames at the start of a stream; each takes 4 bytes more there.

    Raises: ValueError if a length is invalid.
    """
    frames: list[memoryview] = []
    start = 0
    while len(stream) - start >= _LENGTH_SIZE:
        size = int.from_bytes(stream[start : start + _LENGTH_SIZE], "big")
        if size > MAX_FRAME:
            raise ValueError(f"a frame of {size} bytes")
        end = start + _LENGTH_SIZE + size
        if end > len(stream):
            break
        frames.append(stream[start + _LENGTH_SIZE : end])
        start = end
    return frames


def size_of(frames: Sequence[bytes | memoryview]) -> int:
    """Return the size of frames on the stream in bytes."""
    return sum(map(len, frames)) + _LENGTH_SIZE * len(frames)


class StreamBackend(NetBackend):
    """Frames through a stream socket, to a peer that ends when this end of it closes.

    Args:
        mtu: the longest packets of the peer.
        offloads: what the peer makes unnecessary; frames carry no header.
    """

    def __init__(
        self, loop: IoEvents, stream: socket.socket, mtu: int = MTU, offloads: int = 0
    ) -> None:
        self.mtu = mtu
        self.offloads = offloads
        self._loop = loop
        self._socket = stream
        self._socket.setblocking(False)
        self._port: NetPort | None = None
        self._received = bytearray(BUFFER_SIZE)
        self._received_size = 0
        self._lock = Lock()  # guards the next two: the vCPU sends, the loop sends the rest
        self._unsent = b""
        self._is_closed = False

    def start(self, port: NetPort) -> None:
        """Deliver frames to ``port`` from now on."""
        self._port = port
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    # --- guest to host ------------------------------------------------------------------------

    def send(self, frame: list[memoryview], queue: int = 0) -> bool:  # noqa: ARG002  it has one
        """Send one frame; return False while an earlier one is not sent completely."""
        with self._lock:
            if self._is_closed:
                return True  # an unplugged cable
            if self._unsent:
                return False
            parts = pack_frame(frame)
            done = self._write(parts)
            if done is None:
                return True
            if not done:
                self._loop.add_writer(self._socket.fileno(), self._flush)
                return False
            if done < sum(map(len, parts)):  # the rest must follow before anything else
                self._unsent = b"".join(parts)[done:]
                self._loop.add_writer(self._socket.fileno(), self._flush)
            return True

    def _write(self, buffers: Sequence[bytes | memoryview]) -> int | None:
        """Return the number of bytes sent; None if the peer is gone."""
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

    def resume(self, queue: int = 0) -> None:  # noqa: ARG002  it has one
        """Deliver the frames for which the guest had no buffers."""
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
        """Pass all complete frames to the guest; return False if it lacks buffers for some."""
        stream = memoryview(self._received)[: self._received_size]
        try:
            frames = whole_frames(stream)
        except ValueError:
            self._unplug()
            return False
        taken = self._port.receive(frames) if self._port and frames else 0
        rest = bytes(stream[size_of(frames[:taken]) :])
        self._received[: len(rest)] = rest
        self._received_size = len(rest)
        return taken == len(frames)

    def _unplug(self) -> None:
        """Unplug the guest's cable: the peer is gone."""
        self.close()
        if self._port:
            self._port.set_link(is_up=False)


def enlarge(stream: socket.socket) -> None:
    """Let a peer send as much at once as the system allows: it may drop what does not fit."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)  # needs CAP_NET_ADMIN
    except PermissionError:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)


def start_program(name: str, *command: str) -> socket.socket:
    """Start a program with one end of a socket pair and return the other.

    It goes into the background once it is ready, so the command's exit status shows whether it
    started, and no process must be watched or killed.

    Args:
        name: its name for the user, and its package.
        command: the command, to which ``--fd NUMBER`` is added.

    Raises: UserError, with the program's message, if it does not start.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        enlarge(theirs)
        try:
            result = subprocess.run(
                [*command, "--fd", str(theirs.fileno())],
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
            raise UserError(f"{name} is needed: install the package {name}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            ours.close()
            raise UserError(f"{name} could not be started: {error}") from None
    if result.returncode:
        ours.close()
        words = [
            line for line in result.stderr.splitlines() if line and not line.startswith(_NOISE)
        ]
        reason = "; ".join(words) or f"exit status {result.returncode}"
        raise UserError(f"{name}: {reason}")
    return ours
