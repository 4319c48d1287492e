"""A program: a network of libslirp, with frames on a stream socket as in passt(1).

    python -m pyvmm.devices.slirp NUMBER MTU [tcp:127.0.0.1:8080-:80 ...] --fd FD

It goes into the background when it is ready, and ends when the other end of the socket closes.
"""

import os
import select
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv6Network
from pathlib import Path

from pyvmm.arch.confine import calls
from pyvmm.arch.confine.landlock import READ, Beneath, python_files
from pyvmm.arch.confine.sandbox import Sandbox
from pyvmm.arch.errors import UserError
from pyvmm.devices.libslirp import Slirp, SlirpConfig
from pyvmm.devices.net_stream import BUFFER_SIZE, pack_frame, size_of, whole_frames
from pyvmm.devices.net_user import MTU, PortForward, guest_of, host_of, user_network

_NOBODY = 65534


class Network:
    """A network and its end of the stream.

    Args:
        number: of the network among those of the guest.

    Raises: UserError if libslirp is not installed, or a forwarded port cannot be used.
    """

    def __init__(
        self, forwards: Sequence[PortForward] = (), number: int = 0, mtu: int = MTU
    ) -> None:
        self._frames: list[bytes] = []  # for the guest
        self._unsent = memoryview(b"")
        self._received = bytearray(BUFFER_SIZE)
        self._received_size = 0
        needs_ipv6 = any(forward.host_address.version == 6 for forward in forwards)
        config = _config(number, mtu, has_ipv6=needs_ipv6 or _has_ipv6())
        self._slirp = Slirp(config, self._frames.append)
        for forward in forwards:
            self._add_forward(forward)

    def _add_forward(self, forward: PortForward) -> None:
        try:
            self._slirp.add_forward(
                is_udp=forward.protocol == "udp",
                host_address=forward.host_address,
                host_port=forward.host_port,
                guest_port=forward.guest_port,
            )
        except OSError as error:
            raise UserError(f"hostfwd={forward}: {error.strerror}") from None

    def serve(self, stream: socket.socket) -> None:
        """Carry frames until the other end closes."""
        stream.setblocking(False)
        writable = select.poll()
        writable.register(stream, select.POLLOUT)
        with suppress(ConnectionError, ValueError):
            while True:
                self._send(stream)
                if self._unsent:  # the guest is slow: its peers and its own frames wait
                    writable.poll()
                else:
                    self._slirp.serve(stream.fileno())
                    self._receive(stream)
        self._slirp.close()

    def _send(self, stream: socket.socket) -> None:
        if not self._unsent and self._frames:
            parts = [part for frame in self._frames for part in pack_frame([frame])]
            self._unsent = memoryview(b"".join(parts))
            self._frames.clear()
        if self._unsent:
            with suppress(BlockingIOError):
                self._unsent = self._unsent[stream.send(self._unsent) :]

    def _receive(self, stream: socket.socket) -> None:
        try:
            size = stream.recv_into(memoryview(self._received)[self._received_size :])
        except BlockingIOError:
            return
        if not size:
            raise ConnectionAbortedError
        self._received_size += size
        whole = memoryview(self._received)[: self._received_size]
        frames = whole_frames(whole)
        for frame in frames:
            if not is_fragment(frame):
                self._slirp.input(bytes(frame))
        rest = bytes(whole[size_of(frames) :])
        self._received[: len(rest)] = rest
        self._received_size = len(rest)


def is_fragment(frame: bytes | memoryview) -> bool:
    """Check whether libslirp would treat a frame as a fragment of an IPv4 packet.

    Fragments can crash some of its versions, and no guest needs them: its packets may have the
    maximum length.
    """
    is_ipv4 = len(frame) >= 22 and frame[12:14] == b"\x08\0"
    return is_ipv4 and bool(frame[20] & ~0x40 or frame[21])  # anything but "don't fragment"


def _config(number: int, mtu: int, *, has_ipv6: bool) -> SlirpConfig:
    network = user_network(number)
    network6 = IPv6Network(((0xFD33 + number) << 112, 64))
    return SlirpConfig(
        network=network,
        host=host_of(network),
        guest=guest_of(network),
        name_server=network[3],
        network6=network6,
        host6=network6[1],
        name_server6=network6[3],
        has_ipv6=has_ipv6,
        mtu=mtu,
    )


def _has_ipv6() -> bool:
    """Check whether this host has an IPv6 route; without one, the guest must not use IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2000::1", 9))  # which sends nothing
    except OSError:
        return False
    return True


def main(words: list[str]) -> int:
    """Run the program; return its exit code."""
    number, mtu, *forwards, _, fd = words
    try:
        network = Network([PortForward.parse(text) for text in forwards], int(number), int(mtu))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not os.fork():
        _go_into_background()
        _sandbox().enter()
        network.serve(socket.socket(fileno=int(fd)))
    return 0


def _go_into_background() -> None:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)
    if os.geteuid() == 0:
        with suppress(OSError):  # a container may not have another user
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)


def _sandbox() -> Sandbox:
    """Return what the process may still do: have connections, and look for name servers."""
    return Sandbox(
        [*python_files(("pyvmm",)), Beneath(Path("/etc/resolv.conf").resolve(), READ)],
        {
            **calls.PROGRAM,
            **calls.MEMORY,
            **calls.DESCRIPTORS,
            **calls.CONNECTIONS,
            **calls.FILES,
            **calls.NETWORK,
        },
        denies_tcp=False,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
