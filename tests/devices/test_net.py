"""The network device, over a backend in memory."""

from collections.abc import Callable
from struct import pack

import pytest

from pyvmm.arch.saved import State, StateError
from pyvmm.devices.virtio.net import GUEST_OFFLOADS, MAX_FRAME, NetFeature, VirtioNet
from tests.devices.driver import NO_RING_FEATURES, Driver
from tests.devices.hosts import Wire

MAC = bytes.fromhex("021515151515")
HEADER = bytes(12)


class Card:
    """A network card and its wire."""

    def __init__(self, wire: Wire | None = None, refuse: int = 0) -> None:
        self.wire = wire or Wire()
        self.net = VirtioNet(self.wire, MAC)
        self.driver = Driver(self.net, refuse=refuse)

    def command(self, kind: int, number: int, data: bytes) -> bool:
        """Give a command through the control queue, the last one; return whether it is accepted."""
        index = len(self.driver.rings) - 1
        request = self.driver.rings[index].add([bytes((kind, number)), data], [1])
        self.driver.kick(index)
        assert self.driver.rings[index].used_entries() == [(request.head, 1)]
        return request.answer() == b"\0"

    def receives(self, target: bytes) -> bool:
        """Check whether a frame to this address reaches the guest."""
        before = self.net.counters["received_frames"]
        self.driver.rings[0].add([], [100])
        assert self.net.receive([target + bytes(14)]) == 1
        return self.net.counters["received_frames"] > before


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


# --- sent buffers ---------------------------------------------------------------------------------


class Timed(Card):
    """A live card with a timer, which expires when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []
        self.wire = Wire()
        self.net = VirtioNet(self.wire, MAC, set_timer=lambda call, _: self.timers.append(call))
        self.driver = Driver(self.net, ring_size=128).start()

    def send(self, count: int = 1) -> None:
        """Send some frames, each with its notification."""
        for _ in range(count):
            self.driver.rings[1].add([HEADER + b"f" * 60], [])
            self.driver.kick(1)

    @property
    def num_returned(self) -> int:
        """The number of sent buffers that have returned since the last call."""
        return len(self.driver.rings[1].used_entries())


def test_net_returns_sent_buffers_when_the_time_is_over() -> None:
    """The frames leave at once; one timer and one interrupt are for all."""
    card = Timed()
    card.send(3)
    assert (len(card.wire.sent), card.num_returned, len(card.timers)) == (3, 0, 1)
    card.timers.pop()()
    assert (card.num_returned, card.driver.irq.rises) == (3, 1)
    card.send()
    assert len(card.timers) == 1


def test_net_returns_sent_buffers_of_a_busy_backend() -> None:
    """Those that were sent before it was busy do not wait for it."""
    card = Timed()
    card.wire.sendable = 1
    card.send(2)
    assert (len(card.wire.sent), len(card.timers)) == (1, 1)
    card.timers.pop()()
    assert card.num_returned == 1


def test_net_returns_sent_buffers_with_received_frames() -> None:
    """One interrupt is for both."""
    card = Timed()
    card.driver.rings[0].add([], [100])
    card.send(2)
    card.net.receive([b"g" * 60])
    assert (card.num_returned, card.driver.irq.rises) == (2, 1)
    card.timers.pop()()
    assert card.num_returned == 0


def test_net_does_not_keep_many_sent_buffers() -> None:
    """A driver that only sends does not run out of them; a reset forgets them."""
    card = Timed()
    card.send(65)
    assert card.num_returned == 65
    for _ in range(100):
        card.driver.rings[1].add([HEADER + b"f" * 60], [])
    card.driver.kick(1)
    assert card.num_returned == 65
    card.send()
    card.driver.start()
    card.timers.pop()()
    assert not card.driver.is_broken
    assert card.num_returned == 0


# --- offloads -------------------------------------------------------------------------------------

ALL = NetFeature.CSUM | NetFeature.HOST_TSO4 | GUEST_OFFLOADS


def kernel(refuse: int = 0) -> Card:
    """Return a live card whose backend takes headers."""
    card = Card(Wire(offloads=ALL, has_headers=True), refuse)
    card.driver.start()
    return card


def test_net_offers_only_what_its_backend_can_do() -> None:
    """A driver never leaves work to the backend that the backend does not do."""
    offloads = ALL | NetFeature.CTRL_GUEST_OFFLOADS | NetFeature.MQ
    assert not Card().driver.offered() & offloads
    wire = Wire(offloads=NetFeature.CSUM | NetFeature.GUEST_CSUM)
    expected = NetFeature.CSUM | NetFeature.GUEST_CSUM | NetFeature.CTRL_GUEST_OFFLOADS
    assert Card(wire).driver.offered() & offloads == expected
    assert Card(Wire(num_queues=2)).driver.offered() & offloads == NetFeature.MQ


def test_net_passes_headers_on_to_a_backend_that_takes_them() -> None:
    """Both ways, and the number of buffers is the device's."""
    card = kernel()
    assert card.wire.used_offloads == GUEST_OFFLOADS
    header = pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    card.driver.rings[1].add([header[:5], header[5:] + b"f" * 60], [])
    card.driver.kick(1)
    assert card.wire.sent == [header + b"f" * 60]
    assert card.net.counters["sent_bytes"] == 60
    requests = [card.driver.rings[0].add([], [50]) for _ in range(2)]
    assert card.net.receive([memoryview(bytearray(header + b"g" * 60))]) == 1
    answer = b"".join(request.answer() for request in requests)
    assert answer[:72] == header[:10] + b"\2\0" + b"g" * 60
    assert card.net.counters["received_bytes"] == 60


def test_net_keeps_offloads_from_a_driver_that_refused_them() -> None:
    """Its headers are ignored, and it gets none with flags."""
    card = kernel(refuse=ALL)
    assert card.wire.used_offloads == 0
    header = pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    card.driver.rings[1].add([header + b"f" * 60], [])
    card.driver.kick(1)
    assert card.wire.sent == [bytes(12) + b"f" * 60]
    request = card.driver.rings[0].add([], [100])
    card.net.receive([bytes((2,)) + bytes(11) + b"g" * 60])
    assert request.answer()[:12] == bytes(10) + b"\1\0"


def test_net_says_that_checksums_from_this_host_are_right() -> None:
    """A program's frames need no check, if the driver wants to know."""
    card = Card(Wire(offloads=NetFeature.GUEST_CSUM))
    request = card.driver.start().rings[0].add([], [100])
    card.net.receive([b"f" * 60])
    assert request.answer()[:12] == b"\2" + bytes(9) + b"\1\0"


def test_net_changes_offloads_on_command() -> None:
    """Only to what the driver accepted; segments need checksums; a reset ends them."""
    card = kernel(refuse=NetFeature.GUEST_TSO6)
    checksum, segments = NetFeature.GUEST_CSUM, NetFeature.GUEST_TSO4
    assert card.command(5, 0, pack("<Q", checksum | segments))
    assert card.wire.used_offloads == checksum | segments
    assert not card.command(5, 0, pack("<Q", checksum | NetFeature.GUEST_TSO6))
    assert card.wire.used_offloads == checksum | segments
    assert card.command(5, 0, pack("<Q", segments))
    assert card.wire.used_offloads == 0
    assert card.command(5, 0, pack("<Q", checksum))
    card.driver.write(0x70, 0)
    assert card.wire.used_offloads == 0


# --- pairs of queues ------------------------------------------------------------------------------


def test_net_uses_pairs_of_queues_after_the_command() -> None:
    """Frames leave by their pair's queue, and arrive in it."""
    card = Card(Wire(num_queues=3))
    driver = card.driver.start()
    assert (driver.config(8, 2), len(driver.rings)) == (3, 7)
    assert [card.command(4, 0, pack("<H", number)) for number in (0, 4, 2)] == [False, False, True]
    for index in (1, 3, 5):
        driver.rings[index].add([HEADER, b"f" * 60], [])
        driver.kick(index)
    assert card.wire.queues == [0, 1]
    requests = [driver.rings[2 * pair].add([], [100]) for pair in range(3)]
    for queue in (1, 2):  # the third queue's frames go where the guest looks
        assert card.net.receive([bytes((queue,)) * 60], queue) == 1
    assert [request.answer()[12] for request in requests] == [2, 1, 0]


def test_net_without_multiqueue_has_its_control_queue_third() -> None:
    """As the specification says, whatever the device could have had."""
    card = Card(Wire(num_queues=3), refuse=NetFeature.MQ)
    ring = card.driver.start().rings[2]
    request = ring.add([b"\4\0", pack("<H", 2)], [1])
    card.driver.kick(2)
    assert request.answer() == b"\1"
    assert not card.driver.is_broken


def test_net_resumes_each_queue_that_waits() -> None:
    """New buffers in any pair let all of them try again."""
    card = Card(Wire(num_queues=2))
    card.driver.start()
    card.command(4, 0, pack("<H", 2))
    assert (card.net.receive([b"f" * 60], 0), card.net.receive([b"f" * 60], 1)) == (0, 0)
    card.driver.rings[0].add([], [100])
    card.driver.kick(0)
    assert card.wire.num_resumes == 2


# --- control queue --------------------------------------------------------------------------------

OTHER, GROUP, BROADCAST = b"\2" + bytes(5), b"\1\0^\0\0\1", b"\xff" * 6


def test_net_filters_what_it_receives(card: Card) -> None:
    """Everything passes until the driver sets a mode; each mode and table counts."""
    assert card.receives(OTHER)
    assert card.command(0, 0, b"\0")
    assert [card.receives(mac) for mac in (MAC, BROADCAST, OTHER, GROUP)] == [1, 1, 0, 0]
    table = pack("<I6sI6s", 1, OTHER, 1, GROUP)
    assert card.command(1, 0, table)
    assert [card.receives(mac) for mac in (MAC, OTHER, GROUP)] == [1, 1, 1]
    assert card.command(1, 0, bytes(8))
    assert [card.receives(mac) for mac in (MAC, OTHER, GROUP)] == [1, 0, 0]
    for number, mac, is_received in (
        (1, GROUP, True), (2, OTHER, True), (3, GROUP, False), (4, MAC, False),
        (5, BROADCAST, False),
    ):  # fmt: skip
        assert card.command(0, number, b"\1")
        assert card.receives(mac) is is_received
    assert card.command(0, 0, b"\1")
    assert all(map(card.receives, (MAC, OTHER, GROUP, BROADCAST)))


def test_net_takes_a_long_table_for_everything(card: Card) -> None:
    """The guest misses nothing if the device remembers fewer addresses than it wants."""
    card.command(0, 0, b"\0")
    assert card.command(1, 0, pack("<I", 257) + bytes(6 * 257) + bytes(4))
    assert [card.receives(mac) for mac in (OTHER, GROUP)] == [1, 0]


def test_net_changes_its_address_on_command(card: Card) -> None:
    """The configuration and the filter follow; a reset restores it."""
    card.command(0, 0, b"\0")
    assert card.command(1, 1, OTHER)
    assert card.driver.config(0, 6) == int.from_bytes(OTHER, "little")
    assert [card.receives(mac) for mac in (MAC, OTHER)] == [0, 1]
    assert not card.command(1, 1, GROUP)
    card.driver.write(0x70, 0)
    assert card.driver.config(0, 6) == int.from_bytes(MAC, "little")


@pytest.mark.parametrize(
    "command",
    ["", "00", "0000", "000601", "00ff01", "0100", "0100ffffffff", "01000100000002", "0101",
     "010102000000", "0200", "030101", "0400", "040001", "0500", "0500ffffff", "05000000000000000f",
     "0600", "ffffffff"],
)  # fmt: skip
def test_net_refuses_a_command_that_makes_no_sense(card: Card, command: str) -> None:
    """It answers with an error, and works on."""
    request = card.driver.rings[2].add([bytes.fromhex(command)] if command else [], [1])
    card.driver.kick(2)
    assert request.answer() == b"\1"
    assert card.receives(MAC)


def test_net_asks_for_an_announcement_when_the_link_comes_back(card: Card) -> None:
    """Each end of the cable can be unplugged; frames are lost meanwhile, and nothing waits."""
    card.net.enable(is_enabled=False)
    assert card.driver.config(6, 2) == 0
    assert not card.receives(MAC)
    card.driver.rings[1].add([HEADER, b"f" * 60], [])
    card.driver.kick(1)
    assert (card.wire.sent, len(card.driver.rings[1].used_entries())) == ([], 1)
    card.net.set_link(is_up=False)
    card.net.enable(is_enabled=True)
    assert card.driver.config(6, 2) == 0
    card.driver.acknowledge()
    card.net.set_link(is_up=True)
    assert (card.driver.config(6, 2), card.driver.acknowledge()) == (3, 2)
    assert card.command(3, 0, b"")
    assert card.driver.config(6, 2) == 1


# --- a snapshot -----------------------------------------------------------------------------------


def new_card() -> Card:
    """Return a live card with all that a driver can set."""
    card = Card(Wire(num_queues=3, offloads=GUEST_OFFLOADS))
    card.driver.start()
    return card


def load(card: Card, state: State) -> None:
    """Set the state of a card as its transport does."""
    with card.net.transport:
        card.net.load(state)


def test_net_continues_on_another_network() -> None:
    """With its address, filter, pairs of queues and offloads; it has to announce itself."""
    card, other = new_card(), new_card()
    card.command(0, 0, b"\0")
    card.command(1, 0, pack("<I6sI", 1, OTHER, 0))
    card.command(1, 1, OTHER[::-1])
    card.command(4, 0, pack("<H", 2))
    card.command(5, 0, pack("<Q", NetFeature.GUEST_CSUM))
    other.driver.acknowledge()
    load(other, card.net.save())
    assert other.net.save() == card.net.save()
    assert [other.net.filter.accepts(mac, other.net.mac) for mac in (OTHER, GROUP)] == [True, False]
    assert (other.net.num_pairs, other.wire.used_offloads) == (2, NetFeature.GUEST_CSUM)
    assert other.driver.config(0, 6) == int.from_bytes(OTHER[::-1], "little")
    assert (other.driver.config(6, 2), other.driver.acknowledge()) == (3, 2)


def test_net_stays_unplugged_in_a_snapshot(card: Card) -> None:
    """The user did that, not its network."""
    card.net.enable(is_enabled=False)
    other = new_card()
    load(other, card.net.save())
    assert other.driver.config(6, 2) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"mac": b"short"},
        {"mac": 5},
        {"modes": [6]},
        {"modes": None},
        {"unicast": b"12345"},
        {"multicast": "text"},
        {"num_pairs": 0},
        {"num_pairs": 4},
        {"offloads": NetFeature.CSUM},
        {"offloads": -1},
        {"is_enabled": 1},
    ],
)
def test_net_refuses_what_is_no_state(wrong: State) -> None:
    """As a damaged snapshot."""
    card = new_card()
    with pytest.raises(StateError):
        load(card, card.net.save() | wrong)


def test_net_records_what_it_carries() -> None:
    """Frames of both directions, without headers, and none that was refused."""
    frames: list[bytes] = []
    wire = Wire(has_headers=True)
    net = VirtioNet(wire, MAC, record=lambda frame: frames.append(b"".join(frame)))
    driver = Driver(net).start()
    assert net.receive([HEADER + b"a" * 60]) == 0
    driver.rings[0].add([], [100])
    net.receive([HEADER + b"a" * 60])
    driver.rings[1].add([HEADER, b"b" * 60], [])
    wire.is_busy = True
    driver.kick(1)
    wire.is_busy = False
    net.sendable()
    assert frames == [b"a" * 60, b"b" * 60]


def test_net_breaks_if_no_number_of_buffers_is_enough(card: Card) -> None:
    """Buffers of no bytes would be collected for ever."""
    ring = card.driver.rings[0]
    for index in range(ring.size):
        ring.put_desc(index, ring.ram.alloc(1), 0, 2)
        ring.offer(index)
    assert card.net.receive([b"a" * 20]) == 1
    assert card.driver.is_broken
