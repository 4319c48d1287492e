"""The network backend of tap interfaces, on one of this host."""

import fcntl
import os
import socket
from contextlib import closing
from pathlib import Path
from struct import pack

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_tap import TapBackend
from tests.devices.peer import BROADCAST, MAC, TIMEOUT, Port

needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.W_OK) or os.geteuid() != 0,
    reason="creating a tap interface needs root and /dev/net/tun",
)


HEADER = memoryview(bytes(12))


@needs_tun
def test_tap_carries_frames_both_ways(loop: IoLoop) -> None:
    """The interface receives the guest's frames, and vice versa."""
    name = f"pvt{os.getpid()}"
    frame = BROADCAST + MAC + b"\x88\xb5" + b"to host".ljust(50)
    back = MAC + MAC + b"\x88\xb5" + b"to guest".ljust(50)
    with closing(TapBackend(loop, name)) as backend:
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        set_up(name)
        with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x88B5)) as host:
            host.bind((name, 0x88B5))
            host.settimeout(TIMEOUT)
            port = Port()
            port.room = 0
            backend.start(port)
            assert backend.send([HEADER, memoryview(frame)[:14], memoryview(frame)[14:]])
            assert host.recv(2000) == frame
            host.send(back)
            assert port.is_full.wait(TIMEOUT)
            port.room = 10
            backend.resume()
            assert port.frames.get(timeout=TIMEOUT)[12:] == back
        assert (backend.mtu, backend.num_queues) == (1500, 1)


def set_up(name: str) -> None:
    """Bring an interface up (SIOCSIFFLAGS, IFF_UP)."""
    with closing(socket.socket()) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, pack("16sH22x", name.encode(), 1))


@pytest.mark.parametrize("name", ["", "a-name-that-is-too-long"])
def test_tap_refuses_a_name_that_no_interface_can_have(loop: IoLoop, name: str) -> None:
    """The error is one line, and nothing is opened."""
    with pytest.raises(UserError, match="1 to 15 bytes"):
        TapBackend(loop, name)
