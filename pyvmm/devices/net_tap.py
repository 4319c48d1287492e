"""Network backend: a tap interface of the host."""

import errno
import fcntl
import os
import struct
from pathlib import Path

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.virtio.net import ETHERNET_HEADER_SIZE, NetPort

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_NAME_SIZE = 16  # IFNAMSIZ, with the terminating zero
_IFREQ_SIZE = 40
_BATCH = 64  # frames passed to the guest at once: one interrupt for all, and the loop stays fair


class TapBackend:
    """Frames through a tap interface; the host's administrator sets its addresses and routes.

    The interface is created if it does not exist, which needs CAP_NET_ADMIN; an existing one that
    belongs to this user needs no privileges.

    Raises: UserError if the interface cannot be opened.
    """

    def __init__(self, loop: IoEvents, interface: str) -> None:
        self._loop = loop
        self._fd = _open(interface)
        self.mtu = _mtu(interface)
        self._port: NetPort | None = None
        self._undelivered: list[bytes] = []

    def start(self, port: NetPort) -> None:
        """Deliver frames to ``port`` from now on."""
        self._port = port
        self._loop.add_reader(self._fd, self._receive)

    def close(self) -> None:
        """Release the interface; it disappears unless it is persistent."""
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        os.close(self._fd)

    def send(self, frame: list[memoryview]) -> bool:
        """Write one frame; False if the interface's queue is full."""
        try:
            os.writev(self._fd, frame)
        except BlockingIOError:
            self._loop.add_writer(self._fd, self._sendable)
            return False
        except OSError:
            pass  # the interface is down or rejects the frame: it is lost, as on a wire
        return True

    def resume(self) -> None:
        """Deliver the frames for which the guest had no buffers."""
        self._loop.call_soon(self._redeliver)

    def _redeliver(self) -> None:
        if self._deliver(self._undelivered):
            self._loop.add_reader(self._fd, self._receive)

    def _receive(self) -> None:
        frames: list[bytes] = []
        try:
            while len(frames) < _BATCH:
                frames.append(os.read(self._fd, self.mtu + ETHERNET_HEADER_SIZE + 4))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: the interface is down but may come up again
                raise
        if not self._deliver(frames):
            self._loop.remove_reader(self._fd)

    def _deliver(self, frames: list[bytes]) -> bool:
        """Pass frames to the guest, and keep the rest; return whether it took all."""
        taken = self._port.receive(frames) if self._port and frames else 0
        self._undelivered = frames[taken:]
        return not self._undelivered

    def _sendable(self) -> None:
        self._loop.remove_writer(self._fd)
        if self._port:
            self._port.sendable()


def _open(interface: str) -> int:
    name = os.fsencode(interface)
    if not name or len(name) >= _NAME_SIZE:
        raise UserError(f"tap interface {interface!r}: a name has 1 to {_NAME_SIZE - 1} bytes")
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"tap interface {interface}: /dev/net/tun: {error.strerror}") from None
    request = struct.pack("16sH", name, _IFF_TAP | _IFF_NO_PI).ljust(_IFREQ_SIZE, b"\0")
    try:
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError as error:
        os.close(fd)
        raise UserError(
            f"tap interface {interface}: {error.strerror}; "
            f"as root, create it with: ip tuntap add {interface} mode tap user $USER"
        ) from None
    return fd


def _mtu(interface: str) -> int:
    try:
        return int(Path("/sys/class/net", interface, "mtu").read_text())
    except (OSError, ValueError):
        return 1500
