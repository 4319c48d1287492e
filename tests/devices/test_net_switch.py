"""The switch between guests, with peers that are sockets of the test."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pyvmm.devices import net_switch
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_stream import StreamBackend, pack_frame
from pyvmm.devices.net_switch import MAX_PEERS, Switch
from pyvmm.devices.virtio.net import MAX_FRAME
from tests.devices.peer import BROADCAST, TIMEOUT, Port
from tests.receiving import receive_exactly
from tests.waiting import wait_until

GUEST, ALICE, BOB = (b"\2" + bytes(4) + bytes((number,)) for number in range(3))


def frame(target: bytes, source: bytes, size: int = 60) -> bytes:
    """Return a frame."""
    return (target + source).ljust(size, b"\x55")


class Peer:
    """The other end of a connection."""

    def __init__(self, path: Path) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.settimeout(TIMEOUT)
        self.stream.connect(str(path))

    def send(self, data: bytes) -> None:
        """Send a frame."""
        self.stream.sendall(b"".join(pack_frame([data])))

    def receive(self) -> bytes:
        """Return the next frame."""
        size = int.from_bytes(receive_exactly(self.stream, 4), "big")
        return receive_exactly(self.stream, size)

    def is_gone(self) -> bool:
        """Wait until the switch closes the connection."""
        return self.stream.recv(1) == b""


class Network:
    """A switch with a guest's port and some peers."""

    def __init__(self, loop: IoLoop, path: Path, stack: ExitStack) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(MAX_PEERS)
        self._path = path
        self._stack = stack
        self.switch = Switch(loop, listener, 1500, path.unlink)
        stack.callback(self.switch.close)
        self.port = Port()
        self.switch.start(self.port)

    def join(self) -> Peer:
        """Connect a peer; the switch has accepted it, unless it has too many."""
        num_peers = len(self.switch._peers)
        peer = Peer(self._path)
        self._stack.enter_context(closing(peer.stream))
        wait_until(lambda: len(self.switch._peers) > num_peers or num_peers == MAX_PEERS, TIMEOUT)
        return peer

    def send(self, data: bytes) -> None:
        """Send a frame from the guest, in two parts like a chain."""
        assert self.switch.send([memoryview(data)[:20], memoryview(data)[20:]])

    def heard(self) -> bytes:
        """Return the next frame that the guest receives."""
        return self.port.frames.get(timeout=TIMEOUT)


@pytest.fixture
def network(loop: IoLoop, tmp_path: Path) -> Iterator[Network]:
    """Return a network whose guest has said nothing."""
    with ExitStack() as stack:
        yield Network(loop, tmp_path / "lan", stack)


def test_switch_learns_where_an_address_is(network: Network) -> None:
    """A frame to an unknown address goes to everybody, to a known one only there."""
    alice, bob = network.join(), network.join()
    alice.send(frame(BOB, ALICE))
    assert network.heard() == bob.receive() == frame(BOB, ALICE)
    bob.send(frame(ALICE, BOB))
    assert alice.receive() == frame(ALICE, BOB)
    network.send(frame(BROADCAST, GUEST))
    assert alice.receive() == bob.receive() == frame(BROADCAST, GUEST)
    bob.send(frame(GUEST, BOB))
    assert network.heard() == frame(GUEST, BOB)  # and not what was for Alice alone
    network.send(frame(ALICE, GUEST))
    network.send(frame(BROADCAST, GUEST, 61))
    assert alice.receive() == frame(ALICE, GUEST)
    assert bob.receive() == frame(BROADCAST, GUEST, 61)


def test_address_moves_with_its_peer(network: Network) -> None:
    """A peer that connects again, or elsewhere, is found; one that has left is forgotten."""
    alice = network.join()
    alice.send(frame(GUEST, ALICE))
    network.heard()
    alice.stream.close()
    wait_until(lambda: not network.switch._peers, TIMEOUT)
    again = network.join()
    again.send(frame(GUEST, BOB))
    network.heard()
    network.send(frame(ALICE, GUEST))
    assert again.receive() == frame(ALICE, GUEST)


@pytest.mark.parametrize("size", [MAX_FRAME + 1, 0xFFFF_FFFF])
def test_peer_that_breaks_the_protocol_is_disconnected(network: Network, size: int) -> None:
    """The others go on."""
    bad, good = network.join(), network.join()
    bad.stream.sendall(size.to_bytes(4, "big") + bytes(100))
    assert bad.is_gone()
    good.send(frame(GUEST, BOB))
    assert network.heard() == frame(GUEST, BOB)


def test_frame_without_a_header_is_dropped(network: Network) -> None:
    """It has no address; the peer stays."""
    peer = network.join()
    peer.send(b"short")
    peer.send(b"")
    peer.send(frame(GUEST, ALICE))
    assert network.heard() == frame(GUEST, ALICE)


def test_slow_peer_loses_frames_and_holds_nobody(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it is bounded, in whole frames, and comes when it reads."""
    monkeypatch.setattr(net_switch, "MAX_WAITING", 1 << 20)
    slow, quick = network.join(), network.join()
    network.send(frame(BROADCAST, GUEST))
    for peer, mac in ((slow, ALICE), (quick, BOB)):
        peer.receive()
        peer.send(frame(GUEST, mac))
        network.heard()
    for number in range(4000):
        network.send(frame(ALICE, GUEST, 1000 + number % 10))
    network.send(frame(BOB, GUEST))
    assert quick.receive() == frame(BOB, GUEST)
    network.send(frame(BROADCAST, GUEST, 64))
    received = [slow.receive() for _ in range(1000)]
    assert received == [frame(ALICE, GUEST, 1000 + number % 10) for number in range(1000)]


def test_guest_without_buffers_loses_frames_beyond_a_limit(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest comes in order when it has buffers again."""
    monkeypatch.setattr(net_switch, "MAX_WAITING", 6000)
    peer = network.join()
    network.port.room = 0
    for number in range(20):
        peer.send(frame(GUEST, ALICE, 1000 + number))
    assert network.port.is_full.wait(TIMEOUT)
    network.send(frame(ALICE, GUEST))
    assert peer.receive() == frame(ALICE, GUEST)
    network.port.room = 1000
    network.switch.resume()
    assert [len(network.heard()) for _ in range(5)] == [1000, 1001, 1002, 1003, 1004]


def test_switch_has_a_limited_number_of_peers(network: Network) -> None:
    """One more is disconnected at once."""
    peers = [network.join() for _ in range(MAX_PEERS)]
    assert network.join().is_gone()
    peers[-1].send(frame(GUEST, ALICE))
    assert network.heard() == frame(GUEST, ALICE)


def test_switch_ends_all_connections(network: Network, tmp_path: Path) -> None:
    """Peers see the end, and the socket is gone; later frames are lost."""
    peer = network.join()
    peer.send(frame(GUEST, ALICE))
    network.heard()
    network.switch.close()
    network.switch.close()
    assert peer.is_gone()
    assert not (tmp_path / "lan").exists()
    network.send(frame(ALICE, GUEST))


def test_two_guests_are_connected(network: Network, loop: IoLoop) -> None:
    """The other side of the switch is the backend that user mode has, too."""
    peer = network.join()
    port = Port()
    with closing(StreamBackend(loop, peer.stream)) as backend:
        backend.start(port)
        assert backend.send([memoryview(frame(GUEST, ALICE))])
        assert network.heard() == frame(GUEST, ALICE)
        network.send(frame(ALICE, GUEST, MAX_FRAME))
        assert port.frames.get(timeout=TIMEOUT) == frame(ALICE, GUEST, MAX_FRAME)
        network.switch.close()
        wait_until(port.is_unplugged.is_set, TIMEOUT)
