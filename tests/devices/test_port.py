"""The console device with one named port."""

from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.port import MAX_OUTPUT, Event, Port, PortFeature, VirtioPorts
from tests.devices.driver import NEXT, RAM_SIZE, Driver, Request
from tests.devices.hosts import Listener

RECEIVE, TRANSMIT, CONTROL_RECEIVE, CONTROL_TRANSMIT = range(4)


class Rig:
    """A port, its host side and its driver."""

    def __init__(self, refuse: int = 0) -> None:
        self.log = Listener()
        self.port = Port("org.example.0", self.log)
        self.driver = Driver(VirtioPorts([self.port]), refuse=refuse).start()

    def tell(self, event: int, value: int, port: int = 0) -> None:
        """Send a control message."""
        self.driver.rings[CONTROL_TRANSMIT].add([pack("<IHH", port, event, value)], [])
        self.driver.kick(CONTROL_TRANSMIT)

    def offer(self, queue: int, size: int = 64) -> Request:
        """Give the device a buffer."""
        request = self.driver.rings[queue].add([], [size])
        self.driver.kick(queue)
        return request

    def open(self) -> None:
        """Open the port as Linux does for its program."""
        for event in (Event.DEVICE_READY, Event.PORT_READY, Event.PORT_OPEN):
            self.tell(event, 1)

    def write(self, data: bytes) -> None:
        """Write as the guest's program."""
        self.driver.rings[TRANSMIT].add([data], [])
        self.driver.kick(TRANSMIT)


@pytest.fixture
def rig() -> Rig:
    """Return a live port."""
    return Rig()


def test_port_introduces_itself(rig: Rig) -> None:
    """Linux asks for the ports, and gets one with its name, opened by the host."""
    assert rig.driver.config(4, 4) == 1
    requests = [rig.offer(CONTROL_RECEIVE) for _ in range(4)]
    rig.tell(Event.DEVICE_READY, 1)
    rig.tell(Event.PORT_READY, 1)
    written = [size for _, size in rig.driver.rings[CONTROL_RECEIVE].used_entries()]
    messages = [unpack_from("<IHH", request.answer()) for request in requests[:3]]
    assert messages == [(0, Event.PORT_ADD, 1), (0, Event.PORT_NAME, 1), (0, Event.PORT_OPEN, 1)]
    assert written == [8, 8 + len("org.example.0"), 8]
    assert requests[1].answer()[8:].rstrip(b"\0") == b"org.example.0"


def test_port_keeps_one_message_of_a_kind(rig: Rig) -> None:
    """A driver that asks repeatedly without reading answers costs no memory."""
    for _ in range(100):
        rig.tell(Event.DEVICE_READY, 1)
        rig.tell(Event.PORT_READY, 1)
    for _ in range(5):
        rig.offer(CONTROL_RECEIVE)
    assert len(rig.driver.rings[CONTROL_RECEIVE].used_entries()) == 3


def test_port_carries_bytes_both_ways(rig: Rig) -> None:
    """Data without a buffer waits, and is spread over as many buffers as necessary."""
    rig.open()
    rig.write(b"question")
    assert rig.log.calls == ["opened", b"question"]
    assert rig.port.send(b"long answer")
    assert rig.port.backlog == 11
    first, second = rig.offer(RECEIVE, 5), rig.offer(RECEIVE, 8)
    assert first.answer() + second.answer() == b"long answer\0\0"
    assert [size for _, size in rig.driver.rings[RECEIVE].used_entries()] == [5, 6]
    assert rig.port.backlog == 0


def test_port_drops_what_is_for_nobody(rig: Rig) -> None:
    """After a close by the program or a reset, no side gets data of the previous connection."""
    rig.write(b"too early")
    assert not rig.port.send(b"too early")
    rig.open()
    assert rig.port.send(b"unread")
    rig.tell(Event.PORT_OPEN, 0)
    rig.tell(Event.PORT_OPEN, 1)
    assert rig.port.backlog == 0
    assert rig.port.send(b"unread")
    rig.driver.start()
    assert rig.port.backlog == 0
    assert rig.log.calls == ["opened", "closed", "opened", "closed"]


def test_ports_have_queues_of_their_own() -> None:
    """The second pair of queues is for control, for all ports; each port carries its own bytes."""
    users = [Listener() for _ in range(3)]
    ports = [Port(f"org.example.{number}", user) for number, user in enumerate(users)]
    driver = Driver(VirtioPorts(ports)).start()
    assert driver.config(4, 4) == 3
    control = driver.rings[CONTROL_TRANSMIT]
    for number, event in ((0, Event.DEVICE_READY), (2, Event.PORT_READY), (2, Event.PORT_OPEN)):
        control.add([pack("<IHH", number, event, 1)], [])
        driver.kick(CONTROL_TRANSMIT)
    for number in range(3, 99):
        control.add([pack("<IHH", number, Event.PORT_OPEN, 1)], [])
        driver.kick(CONTROL_TRANSMIT)
    answers = [driver.rings[CONTROL_RECEIVE].add([], [64]) for _ in range(4)]
    driver.kick(CONTROL_RECEIVE)
    found = [unpack_from("<IHH", each.answer())[:2] for each in answers]
    assert found == [*((number, Event.PORT_ADD) for number in range(3)), (2, Event.PORT_NAME)]
    assert [port.is_open for port in ports] == [False, False, True]
    for queue in (TRANSMIT, 5, 7):
        driver.rings[queue].add([b"from %d" % queue], [])
        driver.kick(queue)
    assert [user.calls for user in users] == [[], [], ["opened", b"from 7"]]
    assert [port.send(b"answer") for port in ports] == [False, False, True]
    request = driver.rings[6].add([], [16])
    driver.kick(6)
    assert request.answer().rstrip(b"\0") == b"answer"


def test_a_full_user_makes_the_guest_wait(rig: Rig) -> None:
    """Nothing is lost, and nothing is taken twice."""
    rig.open()
    rig.log.is_full = True
    for number in range(5):
        rig.write(b"%d" % number)
    assert rig.log.calls == ["opened"]
    rig.port.resume()
    assert rig.log.calls == ["opened"]
    rig.log.is_full = False
    rig.port.resume()
    assert rig.log.calls == ["opened", b"0", b"1", b"2", b"3", b"4"]
    assert len(rig.driver.rings[TRANSMIT].used_entries()) == 5


def test_what_was_written_before_a_close_arrives_before_it(rig: Rig) -> None:
    """A program that has written all may leave while the user is full; the next one's follows."""
    rig.open()
    rig.log.is_full = True
    rig.write(b"first")
    rig.write(b"last")
    rig.tell(Event.PORT_OPEN, 0)
    rig.tell(Event.PORT_OPEN, 1)
    rig.write(b"next")
    rig.tell(Event.PORT_OPEN, 0)
    assert rig.log.calls == ["opened"]
    rig.log.is_full = False
    rig.port.resume()
    assert rig.log.calls == ["opened", b"first", b"last", "closed", "opened", b"next", "closed"]
    rig.write(b"too late")
    assert rig.log.calls[-1] == "closed"


def test_opening_and_closing_for_ever_costs_no_memory(rig: Rig) -> None:
    """While the user is full; what was open for nothing is left out."""
    rig.open()
    rig.log.is_full = True
    rig.write(b"data")
    for _ in range(100):
        rig.tell(Event.PORT_OPEN, 0)
        rig.tell(Event.PORT_OPEN, 0)
        rig.tell(Event.PORT_OPEN, 1)
        rig.tell(Event.PORT_OPEN, 1)
    assert len(rig.port.changes) == 2
    rig.log.is_full = False
    rig.port.resume()
    assert rig.log.calls == ["opened", b"data", "closed", "opened"]


def test_a_reset_forgets_a_close_that_is_still_to_come(rig: Rig) -> None:
    """The port is closed at once, and opens anew."""
    rig.open()
    rig.log.is_full = True
    rig.write(b"lost")
    rig.tell(Event.PORT_OPEN, 0)
    rig.driver.start()
    rig.log.is_full = False
    rig.open()
    rig.write(b"data")
    assert rig.log.calls == ["opened", "closed", "opened", b"data"]


def test_a_close_that_is_still_to_come_is_saved(rig: Rig) -> None:
    """Relative to what waits: a restored device takes the rest of the queue first."""
    rig.open()
    rig.write(b"taken")
    rig.log.is_full = True
    rig.write(b"waits")
    rig.tell(Event.PORT_OPEN, 0)
    restored = Rig()
    restored.driver.device.load(rig.driver.device.save())
    assert restored.port.is_open
    restored.write(b"waits")
    assert restored.log.calls == ["opened", b"waits", "closed"]


def test_port_is_silent_to_a_driver_that_takes_it_for_a_terminal() -> None:
    """Without MULTIPORT nothing is transferred."""
    rig = Rig(refuse=PortFeature.MULTIPORT)
    rig.open()
    rig.write(b"login:")
    rig.offer(RECEIVE)
    assert (rig.log.calls, rig.port.send(b"x")) == ([], False)
    assert rig.driver.rings[TRANSMIT].used_entries() == []


def test_port_bounds_what_one_chain_costs(rig: Rig) -> None:
    """Overlapping buffers may be larger than memory."""
    rig.open()
    ring = rig.driver.rings[TRANSMIT]
    for index in range(16):
        ring.put_desc(index, 0x8000_0000, RAM_SIZE, NEXT if index < 15 else 0, index + 1)
    ring.offer(0)
    rig.driver.kick(TRANSMIT)
    assert [len(call) for call in rig.log.calls[1:]] == [MAX_OUTPUT]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("tell"), st.binary(max_size=12)),
            st.tuples(
                st.just("tell"),
                st.builds(
                    lambda port, event, value: pack("<IHH", port, event, value),
                    st.integers(0, 1),
                    st.integers(0, 8),
                    st.integers(0, 2),
                ),
            ),
            st.tuples(st.just("write"), st.binary(max_size=20)),
            st.tuples(st.just("offer"), st.binary(max_size=3)),
            st.tuples(st.just("send"), st.binary(max_size=20)),
            st.tuples(st.just("reset"), st.just(b"")),
        ),
        max_size=12,
    )
)
def test_port_is_total_over_any_driver(steps: list[tuple[str, bytes]]) -> None:
    """With any messages, the host side gets opened and closed in turn, and data only between."""
    rig = Rig()
    for what, data in steps:
        match what:
            case "tell":
                rig.driver.rings[CONTROL_TRANSMIT].add([data], [])
                rig.driver.kick(CONTROL_TRANSMIT)
            case "write":
                rig.write(data)
            case "offer":
                rig.offer(len(data) % 2 * CONTROL_RECEIVE, len(data))
            case "send":
                rig.port.send(data)
            case _:
                rig.driver.start()
    assert not rig.driver.is_broken
    state = "closed"
    for call in rig.log.calls:
        if isinstance(call, bytes):
            assert state == "opened"
        else:
            assert call != state
            state = call
