"""The network backend of tap interfaces, on one of this host."""

import fcntl
import os
import shutil
import socket
import subprocess
from contextlib import closing
from pathlib import Path
from struct import pack

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_tap import TapBackend
from tests.devices.peer import BROADCAST, MAC, TIMEOUT, Port

needs_tun = pytest.mark.skipif(
    not shutil.which("ip") or not os.access("/dev/net/tun", os.W_OK) or os.geteuid() != 0,
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


@needs_tun
def test_tap_delivers_the_kernels_answer_at_once() -> None:
    """A guest gets it by a poll, before any loop looks: here none runs."""
    name = f"pva{os.getpid()}"
    question = BROADCAST + MAC + pack("!HHHBBH6s4x6x", 0x0806, 1, 0x0800, 6, 4, 1, MAC)
    with closing(TapBackend(IoLoop(), name)) as backend:
        subprocess.run(["ip", "addr", "add", "192.0.2.77/31", "dev", name], check=True)
        set_up(name)
        port = Port()
        backend.start(port)
        assert backend.send([HEADER, memoryview(question + bytes((192, 0, 2, 77)))])
        backend.poll()
        while (answer := port.frames.get_nowait())[24:26] != b"\x08\x06":
            backend.poll()  # the interface has something to say itself
        assert answer[12:18] == MAC


@needs_tun
def test_tap_that_is_removed_unplugs_the_cable(loop: IoLoop) -> None:
    """The guest's link goes down; what it sends or sets is lost."""
    name = f"pvr{os.getpid()}"
    with closing(TapBackend(loop, name)) as backend:
        set_up(name)
        port = Port()
        backend.start(port)
        subprocess.run(["ip", "link", "del", name], check=True)
        assert port.is_unplugged.wait(TIMEOUT)
        assert backend.send([HEADER, memoryview(bytes(60))])
        backend.set_offloads(backend.offloads)
        backend.resume()


@needs_tun
def test_tap_has_as_many_queues_as_the_interface(loop: IoLoop) -> None:
    """A new interface has those that are asked for; an existing one decides."""
    name = f"pvq{os.getpid()}"
    with closing(TapBackend(loop, name, 3)) as backend:
        assert backend.num_queues == 3
    for kind, asked, expected in (([], 3, 1), (["multi_queue"], 3, 3), (["multi_queue"], 1, 1)):
        subprocess.run(["ip", "tuntap", "add", name, "mode", "tap", *kind], check=True)
        try:
            with closing(TapBackend(loop, name, asked)) as backend:
                assert backend.num_queues == expected
                assert backend.send([HEADER, memoryview(bytes(60))], expected - 1)
        finally:
            subprocess.run(["ip", "tuntap", "del", name, "mode", "tap", *kind], check=True)


def set_up(name: str) -> None:
    """Bring an interface up (SIOCSIFFLAGS, IFF_UP)."""
    with closing(socket.socket()) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, pack("16sH22x", name.encode(), 1))


@pytest.mark.parametrize("name", ["", "a-name-that-is-too-long"])
def test_tap_refuses_a_name_that_no_interface_can_have(loop: IoLoop, name: str) -> None:
    """The error is one line, and nothing is opened."""
    with pytest.raises(UserError, match="1 to 15 bytes"):
        TapBackend(loop, name)
