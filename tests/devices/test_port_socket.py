"""A guest's port and the program at its socket: who waits for whom."""

import socket
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.port_socket import MAX_UNREAD, PortSocket
from pyvmm.devices.virtio.port import Event, VirtioPorts
from tests.devices.driver import Driver, Ram
from tests.waiting import wait_until

RECEIVE, TRANSMIT, _, CONTROL_TRANSMIT = range(4)
MIB = 1 << 20


class Rig:
    """A port with its socket, its driver, and an event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        self.loop = IoLoop()
        self.socket = PortSocket("org.example.0", listener, self.loop)
        self.driver = Driver(VirtioPorts([self.socket.port]), Ram(64 * MIB)).start()
        self.loop.start()
        self.tell(Event.DEVICE_READY)
        self.tell(Event.PORT_READY)

    def tell(self, event: int, value: int = 1) -> None:
        """Send a control message."""
        self.driver.rings[CONTROL_TRANSMIT].add([pack("<IHH", 0, event, value)], [])
        self.driver.kick(CONTROL_TRANSMIT)

    def write(self, data: bytes) -> None:
        """Write as the guest's program."""
        self.driver.rings[TRANSMIT].add([data], [])
        self.driver.kick(TRANSMIT)

    def read(self) -> bytes:
        """Read a buffer as the guest's program."""
        request = self.driver.rings[RECEIVE].add([], [4096])
        self.driver.kick(RECEIVE)
        ((head, size),) = self.used(RECEIVE, 1)
        assert head == request.head
        return request.answer()[:size]

    def used(self, queue: int, count: int) -> list[tuple[int, int]]:
        """Wait until the device has returned so many buffers."""
        found: list[tuple[int, int]] = []

        def is_complete() -> bool:
            found.extend(self.driver.rings[queue].used_entries())
            return len(found) >= count

        wait_until(is_complete)
        return found

    def connect(self) -> socket.socket:
        """Connect a program."""
        program = socket.socket(socket.AF_UNIX)
        program.settimeout(10)
        program.connect(str(self.path))
        return program

    def wait_connected(self) -> None:
        """Wait until the port has a program."""
        wait_until(lambda: self.socket._program is not None)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Return a port that is open in the guest."""
    made = Rig(tmp_path / "socket")
    made.tell(Event.PORT_OPEN)
    yield made
    made.loop.stop()
    made.socket.close()


def test_bytes_go_both_ways(rig: Rig) -> None:
    """In order, with a program that comes and goes."""
    for _ in range(3):
        with rig.connect() as program:
            rig.wait_connected()
            rig.write(b"question")
            assert program.recv(100) == b"question"
            program.sendall(b"answer")
            assert rig.read() == b"answer"
        wait_until(lambda: rig.socket._program is None)


def test_without_a_program_output_is_lost(rig: Rig) -> None:
    """The guest does not wait for someone to connect."""
    for _ in range(20):
        rig.write(b"nobody hears this")
    assert len(rig.driver.rings[TRANSMIT].used_entries()) == 20
    with rig.connect() as program:
        rig.wait_connected()
        rig.write(b"hello")
        assert program.recv(100) == b"hello"


def test_input_waits_until_the_guest_opens_the_port(rig: Rig) -> None:
    """It stays in the socket."""
    rig.tell(Event.PORT_OPEN, 0)
    with rig.connect() as program:
        program.sendall(b"early")
        rig.wait_connected()
        rig.tell(Event.PORT_OPEN)
        assert rig.read() == b"early"


def test_a_program_that_does_not_read_makes_the_guest_wait(rig: Rig) -> None:
    """Memory is bounded, and every byte arrives in the end."""
    chunk = bytes(range(256)) * 256
    with rig.connect() as program:
        rig.wait_connected()
        sent = 0
        while not rig.socket.is_full:
            rig.write(chunk)
            sent += len(chunk)
        for _ in range(4):
            rig.write(chunk)
            sent += len(chunk)
        assert len(rig.socket._unread) <= MAX_UNREAD + len(chunk)
        received = b""
        while len(received) < sent:
            received += program.recv(1 << 20)
        assert received == chunk * (sent // len(chunk))


def test_a_guest_that_does_not_read_makes_the_program_wait(rig: Rig) -> None:
    """A burst is buffered, and no more."""
    with rig.connect() as program:
        rig.wait_connected()
        program.settimeout(0.2)
        with pytest.raises(TimeoutError):
            program.sendall(bytes(16 * MIB))
        assert rig.socket.port.backlog <= 64 << 10
        assert rig.read() == bytes(4096)


def test_a_second_program_waits_for_its_turn(rig: Rig) -> None:
    """It is served when the first one has left."""
    first = rig.connect()
    rig.wait_connected()
    with rig.connect() as second:
        rig.write(b"for the first")
        assert first.recv(100) == b"for the first"
        first.close()
        wait_until(lambda: rig.socket._program is None or rig.socket._program.fileno() >= 0)
        second.sendall(b"from the second")
        assert rig.read() == b"from the second"


def test_a_program_that_leaves_while_the_guest_waits_lets_it_go_on(rig: Rig) -> None:
    """What it has not read is lost."""
    program = rig.connect()
    rig.wait_connected()
    written = 0
    while not rig.socket.is_full:
        rig.write(bytes(1 << 16))
        written += 1
    rig.write(b"last")
    program.close()
    assert len(rig.used(TRANSMIT, written + 1)) == written + 1
