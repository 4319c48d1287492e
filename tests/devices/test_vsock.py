"""The socket device and its host side, with the guest's driver made by hand."""

import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.virtio.vsock import (
    HEADER_SIZE,
    HOST_CID,
    NO_RECEIVE,
    NO_SEND,
    Header,
    Op,
    VirtioVsock,
)
from pyvmm.devices.vsock_connection import BUFFER
from pyvmm.devices.vsock_host import MAX_CONNECTIONS, MAX_GREETINGS, VsockHost
from tests.devices.driver import Driver, Ram, Request
from tests.sequences import sequences
from tests.waiting import wait_until

RECEIVE, TRANSMIT, EVENT = 0, 1, 2
CID, PEER = 5, 9
ROOM = 1 << 16


def parse(packet: bytes) -> Header:
    """Return the header of a packet."""
    return Header(*unpack_from("<QQIIIHHIII", packet))


class Rig:
    """A device on a loop, its driver, and programs on the host."""

    def __init__(self, loop: IoLoop, listener: socket.socket) -> None:
        self.ends: dict[tuple[int, int], socket.socket] = {}  # what the guest has connected to
        self._all_ends: list[socket.socket] = []
        self.is_refusing = False
        self.host = VsockHost(CID, loop, listener, self._connect)
        self.device = VirtioVsock(CID, self.host)
        self.driver = Driver(self.device, Ram(4 << 20), ring_size=64).start()
        self.host.start(self.device)
        self._offered: list[Request] = []

    def _connect(self, cid: int, port: int) -> socket.socket:
        if self.is_refusing:
            raise OSError(errno.ECONNREFUSED, "nobody listens")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(5)
        self.ends[cid, port] = theirs
        self._all_ends.append(theirs)
        return ours

    def close(self) -> None:
        """Close both sides."""
        self.host.close()
        for end in self._all_ends:
            end.close()

    def send(self, op: int, data: bytes = b"", /, **fields: int) -> None:
        """Send a packet as the guest."""
        header = Header(CID, HOST_CID, 100, 80, len(data), op=op, buf_alloc=ROOM)
        packet = replace(header, **fields).pack() + data
        self.driver.rings[TRANSMIT].add([packet], [])
        self.driver.kick(TRANSMIT)

    def offer(self, count: int = 1, size: int = HEADER_SIZE + 4096) -> None:
        """Offer buffers for packets to the guest."""
        for _ in range(count):
            self._offered.append(self.driver.rings[RECEIVE].add([], [size]))
        self.driver.kick(RECEIVE)

    def take(self) -> list[tuple[Header, bytes]]:
        """Return the packets that the guest has received since the last time."""
        packets = []
        with self.device.transport:
            for _, written in self.driver.rings[RECEIVE].used_entries():
                packet = self._offered.pop(0).answer()[:written]
                packets.append((parse(packet), packet[HEADER_SIZE:]))
        return packets

    def expect(self, op: Op) -> tuple[Header, bytes]:
        """Offer a buffer and return the packet in it."""
        self.offer()
        packets: list[tuple[Header, bytes]] = []

        def has_come() -> bool:
            packets.extend(self.take())
            return bool(packets)

        wait_until(has_come, 5)
        (packet,) = packets
        assert packet[0].op == op
        return packet

    def connect(self, port: int = 80) -> socket.socket:
        """Connect the guest to a port of the host; return the host's end."""
        self.send(Op.REQUEST, dst_port=port)
        self.expect(Op.RESPONSE)
        return self.ends[HOST_CID, port]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the guest's socket."""
    return tmp_path / "vsock"


def test_a_restored_guest_learns_that_its_connections_are_lost(loop: IoLoop, path: Path) -> None:
    """By an event, once, as soon as its driver has a buffer for it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    rig = Rig(loop, listener)
    try:
        rig.device.load(rig.device.save())
        ring = rig.driver.rings[EVENT]
        buffers = [ring.add([], [8]) for _ in range(2)]
        rig.driver.kick(EVENT)
        assert ring.used_entries() == [(buffers[0].head, 4)]
        assert buffers[0].answer()[:4] == bytes(4)
        rig.driver.kick(EVENT)
        assert ring.used_entries() == []
    finally:
        rig.close()


@pytest.fixture
def rig(loop: IoLoop, path: Path) -> Iterator[Rig]:
    """Return a running device."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    rig = Rig(loop, listener)
    yield rig
    rig.close()


@pytest.fixture
def program(rig: Rig, path: Path) -> Iterator[socket.socket]:
    """Return a program of the host, connected to the guest's socket."""
    del rig  # listens
    with socket.socket(socket.AF_UNIX) as program:
        program.settimeout(5)
        program.connect(str(path))
        yield program


def test_guest_connects_to_a_program_of_the_host(rig: Rig) -> None:
    """Data flows both ways; the configuration has the CID."""
    assert rig.driver.config(0, 8) == CID
    end = rig.connect()
    rig.send(Op.RW, b"question")
    assert end.recv(100) == b"question"
    end.sendall(b"answer")
    header, data = rig.expect(Op.RW)
    assert data == b"answer"
    assert header == Header(
        HOST_CID, CID, 80, 100, 6, op=Op.RW, buf_alloc=BUFFER, fwd_cnt=len(b"question")
    )


def test_program_of_the_host_connects_to_the_guest(rig: Rig, program: socket.socket) -> None:
    """After CONNECT and the guest's consent; what follows the line at once is data."""
    program.sendall(b"CONNECT 52\nearly")
    header, _ = rig.expect(Op.REQUEST)
    assert (header.src_cid, header.dst_port) == (HOST_CID, 52)
    port = header.src_port
    rig.send(Op.RESPONSE, src_port=52, dst_port=port)
    assert program.recv(100) == b"OK %d\n" % port
    assert rig.expect(Op.RW)[1] == b"early"
    rig.send(Op.RW, b"data", src_port=52, dst_port=port)
    assert program.recv(100) == b"data"


def test_guest_refuses_a_program_of_the_host(rig: Rig, program: socket.socket) -> None:
    """Its connection closes without a reply."""
    program.sendall(b"CONNECT 52\n")
    header, _ = rig.expect(Op.REQUEST)
    rig.send(Op.RST, src_port=52, dst_port=header.src_port)
    assert program.recv(100) == b""


@pytest.mark.parametrize(
    "line",
    [
        b"HELLO\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT -1\n", b"CONNECT 4294967295\n",
        b"CONNECT 99999999999\n", b"C" * 64, b"CONNECT 1 2:3\n", b"CONNECT 1 5:3\n", b"\n",
    ],
)  # fmt: skip
def test_wrong_line_closes_the_connection(rig: Rig, program: socket.socket, line: bytes) -> None:
    """An unknown word, no port, too long, from a CID that no other guest has."""
    program.sendall(line)
    assert program.recv(100) == b""
    rig.offer()
    assert rig.take() == []


def test_guests_reach_each_other(rig: Rig, program: socket.socket) -> None:
    """Through the other's socket, with the caller's address."""
    rig.send(Op.REQUEST, dst_cid=PEER, dst_port=7)
    end = rig.ends[PEER, 7]
    assert end.recv(100) == b"CONNECT 7 5:100\n"
    end.sendall(b"OK 7\nhello")
    header, _ = rig.expect(Op.RESPONSE)
    assert (header.src_cid, header.src_port) == (PEER, 7)
    assert rig.expect(Op.RW)[1] == b"hello"

    program.sendall(b"CONNECT 52 9:1025\n")
    header, _ = rig.expect(Op.REQUEST)
    assert (header.src_cid, header.src_port, header.dst_port) == (PEER, 1025, 52)
    rig.send(Op.RESPONSE, dst_cid=PEER, src_port=52, dst_port=1025)
    assert program.recv(100) == b"OK 1025\n"


@pytest.mark.parametrize("answer", [b"NO\n", b""])
def test_guest_hears_that_another_one_refuses(rig: Rig, answer: bytes) -> None:
    """Or that it has died."""
    rig.send(Op.REQUEST, dst_cid=PEER, dst_port=7)
    end = rig.ends[PEER, 7]
    end.recv(100)
    end.sendall(answer)
    end.close()
    header, _ = rig.expect(Op.RST)
    assert (header.src_cid, header.src_port, header.dst_port) == (PEER, 7, 100)


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        (Op.REQUEST, {"dst_cid": 0}),
        (Op.REQUEST, {"dst_cid": 1}),
        (Op.REQUEST, {"dst_cid": CID}),
        (Op.REQUEST, {"dst_cid": 1 << 32}),
        (Op.REQUEST, {"dst_port": 0xFFFFFFFF}),
        (Op.REQUEST, {"kind": 2}),
        (Op.RW, {}),
        (Op.SHUTDOWN, {}),
        (Op.RESPONSE, {}),
        (0, {}),
        (99, {}),
    ],
)
def test_whatever_is_wrong_is_reset(rig: Rig, op: int, fields: dict[str, int]) -> None:
    """An unknown address, another kind of socket, a packet without its connection."""
    rig.send(op, **fields)
    header, _ = rig.expect(Op.RST)
    assert (header.dst_cid, header.dst_port) == (CID, 100)
    assert header.src_cid == fields.get("dst_cid", HOST_CID)


def test_nobody_listens(rig: Rig) -> None:
    """The guest's connection is refused."""
    rig.is_refusing = True
    rig.send(Op.REQUEST)
    rig.expect(Op.RST)


@pytest.mark.parametrize(("op", "data"), [(Op.REQUEST, b""), (Op.RESPONSE, b""), (77, b"")])
def test_wrong_packet_ends_its_connection(rig: Rig, op: int, data: bytes) -> None:
    """For both sides."""
    end = rig.connect()
    rig.send(op, data)
    rig.expect(Op.RST)
    assert end.recv(100) == b""


def test_guest_does_not_get_more_than_it_has_room_for(rig: Rig) -> None:
    """It is asked once for its room; when it has some again, the rest comes."""
    rig.send(Op.REQUEST, buf_alloc=10)
    rig.expect(Op.RESPONSE)
    end = rig.ends[HOST_CID, 80]
    end.sendall(b"0123456789abcde")
    assert rig.expect(Op.RW)[1] == b"0123456789"
    rig.expect(Op.CREDIT_REQUEST)
    for _ in range(3):
        rig.send(Op.CREDIT_UPDATE, buf_alloc=10)
    rig.offer()
    assert rig.take() == []
    rig.send(Op.CREDIT_UPDATE, buf_alloc=10, fwd_cnt=10)
    wait_until(lambda: [data for _, data in rig.take()] == [b"abcde"], 5)


def test_guest_learns_what_the_host_has_taken(rig: Rig) -> None:
    """When half of the buffer is free again, and when it asks."""
    end = rig.connect()
    for _ in range(2):
        rig.send(Op.RW, bytes(1 << 16))
    received = 0
    while received < 1 << 17:
        received += len(end.recv(1 << 16))
    header, _ = rig.expect(Op.CREDIT_UPDATE)
    assert (header.buf_alloc, header.fwd_cnt) == (BUFFER, 1 << 17)
    rig.send(Op.CREDIT_REQUEST)
    rig.expect(Op.CREDIT_UPDATE)


def test_guest_that_sends_more_than_it_may_is_reset(rig: Rig) -> None:
    """What waits for a slow program is bounded."""
    end = rig.connect()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(16):
        rig.send(Op.RW, bytes(1 << 16))
    rig.expect(Op.RST)


def test_slow_program_gets_everything(rig: Rig) -> None:
    """What its socket did not take at once follows."""
    end = rig.connect()
    sent = bytes(range(256)) * 768  # more than a socket takes
    for start in range(0, len(sent), 1 << 16):
        rig.send(Op.RW, sent[start : start + (1 << 16)])
    rig.send(Op.SHUTDOWN, flags=NO_SEND | NO_RECEIVE)
    received = b""
    while data := end.recv(1 << 16):
        received += data
    assert received == sent


def test_ends_are_passed_on(rig: Rig) -> None:
    """Each direction by itself; when both have ended, the connection is gone."""
    end = rig.connect()
    end.sendall(b"last")
    end.shutdown(socket.SHUT_WR)
    assert rig.expect(Op.RW)[1] == b"last"
    assert rig.expect(Op.SHUTDOWN)[0].flags == NO_SEND
    rig.send(Op.RW, b"still")
    assert end.recv(100) == b"still"
    rig.send(Op.SHUTDOWN, flags=NO_SEND)
    assert end.recv(100) == b""
    rig.send(Op.SHUTDOWN, flags=NO_RECEIVE)
    rig.expect(Op.RST)


def test_death_of_a_program_is_a_shutdown_of_both_directions(rig: Rig) -> None:
    """The guest's program gets an end, or an error when it writes."""
    rig.connect().close()
    assert rig.expect(Op.SHUTDOWN)[0].flags == NO_SEND | NO_RECEIVE
    rig.send(Op.RW, b"into nothing")
    rig.expect(Op.RST)


def test_reset_closes_all_connections(rig: Rig) -> None:
    """The guest has forgotten them."""
    end = rig.connect()
    rig.driver.start()
    assert end.recv(100) == b""


def test_connections_are_bounded(rig: Rig) -> None:
    """One more is refused, until one ends."""
    for port in range(MAX_CONNECTIONS):
        rig.send(Op.REQUEST, src_port=port, dst_port=port)
        rig.expect(Op.RESPONSE)
    rig.send(Op.REQUEST, src_port=5000)
    rig.expect(Op.RST)
    rig.send(Op.RST, src_port=7, dst_port=7)
    rig.send(Op.REQUEST, src_port=5000)
    rig.expect(Op.RESPONSE)


def test_silent_programs_do_not_keep_others_out(rig: Rig, path: Path) -> None:
    """The oldest connection without a line is closed for a new one."""
    silent = []
    for _ in range(MAX_GREETINGS + 1):
        program = socket.socket(socket.AF_UNIX)
        program.settimeout(5)
        program.connect(str(path))
        silent.append(program)
    assert silent[0].recv(1) == b""
    silent[-1].sendall(b"CONNECT 1\n")
    rig.expect(Op.REQUEST)
    for program in silent:
        program.close()


def test_incomplete_packets_are_ignored(rig: Rig) -> None:
    """Too short, from another CID, or with a size that is wrong."""
    whole = Header(CID, HOST_CID, 100, 80, op=Op.REQUEST).pack()
    for packet in (b"", whole[:-1], whole + b"x", pack("<Q", 6) + whole[8:]):
        rig.driver.rings[TRANSMIT].add([packet], [])
        rig.driver.kick(TRANSMIT)
    rig.offer()
    assert (rig.take(), rig.ends, rig.driver.is_broken) == ([], {}, False)


def test_many_resets_need_little_memory(rig: Rig) -> None:
    """For a guest that offers no buffers."""
    for _ in range(1000):
        rig.send(Op.RW)
    assert len(rig.host._resets) <= 256


Step = tuple[int, bytes, dict[str, int], str]
steps = st.tuples(
    st.one_of(st.sampled_from(list(Op)), st.integers(0, 0xFFFF)),
    st.binary(max_size=20),
    st.fixed_dictionaries(
        {},
        optional={
            "dst_cid": st.one_of(st.sampled_from([2, PEER, CID]), st.integers(0, (1 << 64) - 1)),
            "src_port": st.integers(0, 3),
            "dst_port": st.integers(0, 2),
            "size": st.integers(0, (1 << 32) - 1),
            "kind": st.integers(0, 2),
            "flags": st.integers(0, 7),
            "buf_alloc": st.one_of(st.integers(0, 30), st.integers(0, (1 << 32) - 1)),
            "fwd_cnt": st.integers(0, (1 << 32) - 1),
        },
    ),
    st.sampled_from(["", "write", "close", "offer", "reset"]),
)


class StillLoop(IoLoop):
    """A loop whose callbacks a test calls."""

    def turn(self) -> None:
        """Call what is ready now."""
        for key, ready in self._selector.select(0):
            for event in (1, 2):
                callback = self._watches.get(key.fd, {}).get(event)
                if ready & event and callback is not None:
                    callback()


def abuse(script: list[Step]) -> None:
    """Let the guest send anything, and programs write and die; then the device still works."""
    loop, listener = StillLoop(), socket.socket(socket.AF_UNIX)
    listener.bind("")  # a name that the kernel chooses
    listener.listen()
    rig = Rig(loop, listener)
    for op, data, fields, then in script:
        rig.send(op, data, **fields)
        for end in rig.ends.values():
            if then == "write" and end.fileno() >= 0:
                end.setblocking(False)
                try:
                    end.send(b"OK 1\nmore")
                except OSError:
                    continue
            elif then == "close":
                end.close()
        if then == "offer":
            rig.offer(3)
        elif then == "reset":
            rig.driver.start()
            rig._offered.clear()
        loop.turn()
    assert not rig.driver.is_broken
    assert len(rig.host._connections) <= MAX_CONNECTIONS
    rig.driver.start()
    rig._offered.clear()
    for end in rig.ends.values():
        end.close()
    rig.send(Op.REQUEST)
    rig.offer()
    assert [header.op for header, _ in rig.take()] == [Op.RESPONSE]
    rig.close()
    loop.stop()


@given(script=st.lists(steps, max_size=12))
def test_any_packets_leave_a_device_that_works(script: list[Step]) -> None:
    """Whatever the guest sends, and whenever programs write and die."""
    abuse(script)


@pytest.mark.slow
def test_any_packets_leave_a_device_that_works_for_long(seed: int) -> None:
    """This is the same a million times."""
    for each in sequences(steps, seed):
        abuse(each)
