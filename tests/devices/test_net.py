"""The network device, over a backend in memory."""

import pytest

from pyvmm.devices.virtio.net import MAX_FRAME, NetFeature, VirtioNet
from tests.devices.driver import NO_RING_FEATURES, Driver
from tests.devices.hosts import Wire

MAC = bytes.fromhex("021515151515")
HEADER = bytes(12)


class Card:
    """A network card and its wire."""

    def __init__(self, refuse: int = 0) -> None:
        self.wire = Wire()
        self.net = VirtioNet(self.wire, MAC)
        self.driver = Driver(self.net, refuse=refuse)


@pytest.fixture
def card() -> Card:
    """Return a live card."""
    card = Card()
    card.driver.start()
    return card


def test_net_describes_itself(card: Card) -> None:
    """MAC, link and MTU have the specified offsets; unplugging the cable interrupts."""
    driver = card.driver
    assert driver.config(0, 6) == int.from_bytes(MAC, "little")
    assert (driver.config(6, 2), driver.config(8, 2), driver.config(10, 2)) == (1, 1, 1500)
    card.net.set_link(is_up=False)
    assert (driver.config(6, 2), driver.acknowledge()) == (0, 2)


def test_net_sends_frames_without_their_header(card: Card) -> None:
    """The header may share a buffer with the frame, or not."""
    frame = bytes(range(100))
    ring = card.driver.rings[1]
    ring.add([HEADER, frame], [])
    ring.add([HEADER + frame[:50], frame[50:]], [], indirect=True)
    card.driver.kick(1)
    assert card.wire.sent == [frame, frame]
    assert len(ring.used_entries()) == 2
    assert card.net.counters["sent_frames"] == 2
    assert card.net.counters["sent_bytes"] == 200


@pytest.mark.parametrize("size", [0, 11, 25, 12 + MAX_FRAME + 1])
def test_net_drops_what_is_no_frame(card: Card, size: int) -> None:
    """If it is too short or too long for Ethernet, the buffer returns and nothing is sent."""
    card.driver.rings[1].add([bytes(size)], [])
    card.driver.kick(1)
    assert (card.wire.sent, len(card.driver.rings[1].used_entries())) == ([], 1)
    assert not any(card.net.counters.values())


def test_net_waits_for_a_busy_backend(card: Card) -> None:
    """Frames stay in the queue, in order, until the backend takes them."""
    ring = card.driver.rings[1]
    card.wire.is_busy = True
    for byte in b"abc":
        ring.add([HEADER, bytes([byte]) * 14], [])
    card.driver.kick(1)
    assert ring.used_entries() == []
    card.wire.is_busy = False
    card.net.sendable()
    assert [frame[:1] for frame in card.wire.sent] == [b"a", b"b", b"c"]
    assert len(ring.used_entries()) == 3


def test_net_delivers_a_batch_with_one_interrupt(card: Card) -> None:
    """Each frame follows its header, with num_buffers 1."""
    ring = card.driver.rings[0]
    requests = [ring.add([], [12, 100]) for _ in range(3)]
    assert card.net.receive([b"a" * 20, b"b" * 30, b"c" * 100]) == 3
    assert [written for _, written in ring.used_entries()] == [32, 42, 112]
    assert requests[1].answer() == bytes(10) + b"\1\0" + b"b" * 30 + bytes(70)
    assert card.driver.irq.rises == 1
    assert card.net.counters["received_frames"] == 3
    assert card.net.counters["received_bytes"] == 150


def test_net_spreads_a_long_frame_over_merged_buffers(card: Card) -> None:
    """With MRG_RXBUF it uses as many buffers as necessary, and publishes them together."""
    ring = card.driver.rings[0]
    requests = [ring.add([], [40]) for _ in range(3)]
    frame = bytes(range(100))
    assert card.net.receive([frame]) == 1
    assert [written for _, written in ring.used_entries()] == [40, 40, 32]
    answer = b"".join(request.answer() for request in requests)
    assert answer[:112] == bytes(10) + b"\3\0" + frame


def test_net_holds_the_backend_when_the_guest_has_too_few_buffers(card: Card) -> None:
    """The remaining frame is delivered after the guest's next notification."""
    ring = card.driver.rings[0]
    ring.add([], [50])
    assert card.net.receive([b"a" * 60]) == 0
    assert ring.used_entries() == []
    ring.add([], [50])
    card.driver.kick(0)
    assert card.wire.num_resumes == 1
    assert card.net.receive([b"a" * 60]) == 1
    assert len(ring.used_entries()) == 2


def test_net_drops_a_frame_longer_than_the_buffer_without_mergeable_buffers() -> None:
    """The buffer is kept for the next frame."""
    card = Card(refuse=NetFeature.MRG_RXBUF | NO_RING_FEATURES)
    ring = card.driver.start().rings[0]
    ring.add([], [12, 50])
    assert card.net.receive([b"a" * 51, b"b" * 50]) == 2
    assert ring.used_entries() == [(0, 62)]


def test_net_drops_frames_while_no_driver_is_there() -> None:
    """A guest that does not read never blocks a backend; a reset resumes it."""
    card = Card()
    assert card.net.receive([b"a" * 20]) == 1
    card.driver.start()
    assert card.net.receive([b"a" * 20]) == 0
    card.driver.write(0x70, 0)
    assert card.wire.num_resumes == 1


def test_net_breaks_on_a_bad_receive_buffer(card: Card) -> None:
    """A fault on the backend's thread breaks the device, not the thread."""
    ring = card.driver.rings[0]
    ring.put_desc(0, 0, 100, 2)
    ring.offer(0)
    assert card.net.receive([b"a" * 20]) == 1
    assert card.driver.is_broken
