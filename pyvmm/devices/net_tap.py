"""Network backend: a tap interface of the host."""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoEvents
from pyvmm.devices.virtio.net import HEADER_SIZE, MAX_FRAME, NetBackend, NetFeature, NetPort

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNSETVNETLE: Final = 0x400454DC
_SIOCGIFMTU: Final = 0x8921
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
_NAME_SIZE: Final = 16  # IFNAMSIZ, with the terminating zero
_IFREQ_SIZE: Final = 40
_BATCH: Final = 64  # frames passed to the guest at once: one interrupt for all; the loop stays fair
#: What the guest accepts -> the kernel's flag for it (TUN_F_*).
_OFFLOADS: Final = {
    NetFeature.GUEST_CSUM: 1,
    NetFeature.GUEST_TSO4: 2,
    NetFeature.GUEST_TSO6: 4,
    NetFeature.GUEST_ECN: 8,
}


class TapBackend(NetBackend):
    """Frames through a tap interface; the host's administrator sets its addresses and routes.

    The interface is created if it does not exist, which needs CAP_NET_ADMIN; an existing one that
    belongs to this user needs no privileges.  The kernel completes checksums and cuts segments.

    Args:
        max_queues: an existing interface has several only if it was created with multi_queue.

    Raises: UserError if the interface cannot be opened.
    """

    has_headers = True
    offloads = (
        NetFeature.CSUM
        | NetFeature.HOST_TSO4
        | NetFeature.HOST_TSO6
        | NetFeature.HOST_ECN
        | sum(_OFFLOADS)
    )

    def __init__(self, loop: IoEvents, interface: str, max_queues: int = 1) -> None:
        self._queues: list[_Queue] = []
        try:
            can_have_more = True
            while can_have_more and len(self._queues) < max_queues:
                fd, can_have_more = _open(interface, wants_multi=max_queues > 1)
                self._queues.append(_Queue(loop, fd, len(self._queues)))
        except UserError:
            self.close()
            raise
        self.num_queues = len(self._queues)
        self.mtu = _mtu(interface)

    def start(self, port: NetPort) -> None:
        """Deliver frames to ``port`` from now on."""
        for queue in self._queues:
            queue.start(port)

    def close(self) -> None:
        """Release the interface; it disappears unless it is persistent."""
        for queue in self._queues:
            queue.close()

    def set_offloads(self, offloads: int) -> None:
        """Let the kernel pass on partial checksums and long segments, or not."""
        flags = sum(flag for feature, flag in _OFFLOADS.items() if offloads & feature)
        with suppress(OSError):  # the interface may be gone
            fcntl.ioctl(self._queues[0].fd, _TUNSETOFFLOAD, flags)  # of all queues

    def send(self, frame: list[memoryview], queue: int = 0) -> bool:
        """Write one frame; False if the interface's queue is full."""
        return self._queues[queue].send(frame)

    def poll(self, queue: int = 0) -> None:
        """Deliver a frame with which the host's kernel has answered at once."""
        self._queues[queue].poll()

    def resume(self, queue: int = 0) -> None:
        """Deliver the frames for which the guest had no buffers."""
        self._queues[queue].resume()


class _Queue:
    """One file descriptor of the interface."""

    def __init__(self, loop: IoEvents, fd: int, index: int) -> None:
        self.fd = fd
        self._loop = loop
        self._index = index
        self._port: NetPort | None = None
        self._frame = memoryview(bytearray(HEADER_SIZE + MAX_FRAME))
        self._size = 0  # of the frame there, until the guest has it
        self._is_gone = False
        self._is_closed = False

    def start(self, port: NetPort) -> None:
        self._port = port
        self._loop.add_reader(self.fd, self._receive)

    def close(self) -> None:
        self._is_closed = True  # a delivery may be waiting for its turn
        self._loop.remove_reader(self.fd)
        self._loop.remove_writer(self.fd)
        os.close(self.fd)

    def send(self, frame: list[memoryview]) -> bool:
        try:
            os.writev(self.fd, frame)
        except BlockingIOError:
            self._loop.add_writer(self.fd, self._sendable)
            return False
        except OSError:
            pass  # the interface is down or rejects the frame: it is lost, as on a wire
        return True

    def resume(self) -> None:
        self._loop.call_soon(self._redeliver)

    def _redeliver(self) -> None:
        if self._deliver() and not self._is_closed:
            self._loop.add_reader(self.fd, self._receive)

    def _receive(self) -> None:
        if not self._deliver():
            self._loop.remove_reader(self.fd)
        if self._is_gone and self._port:
            self._loop.remove_reader(self.fd)
            self._port.set_link(is_up=False)

    def poll(self) -> None:
        self._deliver(1)

    def _deliver(self, limit: int = _BATCH) -> bool:
        """Pass some frames to the guest; return whether it took them."""
        if self._port:
            self._port.receive(self._frames(limit), self._index)
        return not self._size

    def _frames(self, limit: int) -> Iterator[memoryview]:
        """Yield frames, all in one buffer; the guest has one when it asks for the next.

        This runs while the device's lock is held: a vCPU may poll while the loop receives.
        """
        for _ in range(limit):
            if not self._size and not self._read():
                return
            yield self._frame[: self._size]
            self._size = 0

    def _read(self) -> bool:
        """Read one frame if there is one."""
        try:
            self._size = os.readv(self.fd, [self._frame])
        except BlockingIOError:
            return False
        except OSError as error:
            # EIO: the interface is down but may come up again; otherwise somebody has removed it.
            self._is_gone = error.errno != errno.EIO
            return False
        return self._size > HEADER_SIZE

    def _sendable(self) -> None:
        self._loop.remove_writer(self.fd)
        if self._port:
            self._port.sendable()


def _open(interface: str, *, wants_multi: bool) -> tuple[int, bool]:
    """Return a file descriptor of an interface, and whether there can be others."""
    name = os.fsencode(interface)
    if not name or len(name) >= _NAME_SIZE:
        raise UserError(f"tap interface {interface!r}: a name has 1 to {_NAME_SIZE - 1} bytes")
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"tap interface {interface}: /dev/net/tun: {error.strerror}") from None
    try:
        is_multi = _attach(fd, name, wants_multi=wants_multi)
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
        fcntl.ioctl(fd, _TUNSETVNETLE, struct.pack("i", 1))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    except OSError as error:
        os.close(fd)
        raise UserError(
            f"tap interface {interface}: {error.strerror}; "
            f"as root, create it with: ip tuntap add {interface} mode tap user $USER"
        ) from None
    return fd, is_multi


def _attach(fd: int, name: bytes, *, wants_multi: bool) -> bool:
    """Create or open an interface; return whether it has several queues."""
    for is_multi in (wants_multi, not wants_multi):
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if is_multi else 0)
        request = struct.pack("16sH", name, flags).ljust(_IFREQ_SIZE, b"\0")
        try:
            fcntl.ioctl(fd, _TUNSETIFF, request)
        except OSError as error:
            # EINVAL: it exists, and is of the other kind.
            if error.errno != errno.EINVAL or is_multi != wants_multi:
                raise
        else:
            break
    return is_multi


def _mtu(interface: str) -> int:
    request = struct.pack("16s24x", os.fsencode(interface))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFMTU, request)
    return int(struct.unpack_from("16xi", answer)[0])
