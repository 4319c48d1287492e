"""One stream between a guest's vsock and a Unix socket of the host, with its credit.

Neither side is read faster than the other one takes its data: at most `BUFFER` bytes of the guest
wait for the socket, and the socket is read only for a buffer that the guest has offered and for
which it has room.
"""

import errno
import select
import socket
from typing import Final

from pyvmm.arch.bits import MASK32
from pyvmm.devices.virtio.vsock import NO_RECEIVE, NO_SEND, STREAM, Header, Op

#: Bytes of a connection's data that the guest may send ahead.
BUFFER: Final = 256 << 10
#: A control packet for the guest of each kind, in the order in which they are sent.
_CONTROL: Final = (Op.REQUEST, Op.RESPONSE, Op.CREDIT_UPDATE)


_MAX_LINE: Final = 64
Key = tuple[int, int, int]  # the peer's CID, the peer's port, the guest's port


class Line:
    """The first line that comes through a socket; what follows it stays there."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._line = b""

    def read(self) -> bytes | None:
        """Return the line without its end, or None if it is not complete.

        Raises:
            OSError: the peer is gone, or the line is too long.
        """
        try:
            seen = self.stream.recv(_MAX_LINE - len(self._line), socket.MSG_PEEK)
            part, end, _ = seen.partition(b"\n")
            self._line += self.stream.recv(len(part + end))
        except BlockingIOError:
            return None
        if not seen or (not end and len(self._line) >= _MAX_LINE):
            raise OSError(errno.EPROTO, "no line")
        return self._line[:-1] if end else None


class Connection:
    """A stream; the multiplexer calls its methods and moves its packets.

    Args:
        key: the peer's CID, the peer's port, the guest's port.
        own_cid: the guest's CID.
        stream: the non-blocking socket.
    """

    def __init__(self, key: Key, own_cid: int, stream: socket.socket) -> None:
        self.key = key
        self.stream = stream
        self.is_established = False
        self.is_eof = False  # the socket has no more data for the guest
        self.is_output_watched = False  # by the event loop
        self.answer: Line | None = None  # of another guest, while it is awaited
        self._own_cid = own_cid
        self._control: set[Op] = set()
        self._shutdown = 0  # flags that the guest has not been told yet
        self._guest_flags = 0  # flags of the guest's SHUTDOWN
        self._unsent = bytearray()
        self._taken = 0  # bytes from the guest that the socket has taken
        self._told = 0  # what the guest knows of them
        self._guest_room = 0  # the guest's buf_alloc
        self._guest_taken = 0  # the guest's fwd_cnt
        self._given = 0  # bytes given to the guest
        self._has_asked = False  # for room, since it had some

    # --- from the guest -------------------------------------------------------------------------

    def learn_credit(self, header: Header) -> None:
        """Note what the guest says of its buffer, in every packet."""
        self._guest_room, self._guest_taken = header.buf_alloc, header.fwd_cnt
        self._has_asked &= not self.credit

    def take(self, data: bytes) -> bool:
        """Pass data to the socket; return False if the guest has sent more than it may."""
        if self._guest_flags & NO_SEND or len(self._unsent) + len(data) > BUFFER:
            return False
        self._unsent += data
        return self.flush()

    def flush(self) -> bool:
        """Pass waiting data to the socket; return False if the socket is gone."""
        try:
            while self._unsent:
                done = self.stream.send(self._unsent)
                del self._unsent[:done]
                self._taken = (self._taken + done) & MASK32
        except BlockingIOError:
            pass
        except OSError:
            return False
        if (self._taken - self._told) & MASK32 >= BUFFER // 2:
            self._control.add(Op.CREDIT_UPDATE)
        if not self._unsent and self._guest_flags & NO_SEND:
            return self._end_output()
        return True

    def _end_output(self) -> bool:
        try:
            self.stream.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def shut_down(self, flags: int) -> bool:
        """Process the guest's SHUTDOWN; return False if the connection is over."""
        self._guest_flags |= flags & (NO_RECEIVE | NO_SEND)
        return self.flush() and not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the guest is done with it, and the socket has all its data."""
        return self._guest_flags == NO_RECEIVE | NO_SEND and not self._unsent

    @property
    def has_unsent(self) -> bool:
        """Whether data waits for the socket."""
        return bool(self._unsent)

    def tell(self, line: bytes) -> bool:
        """Send a line to the socket, on which nothing waits; return False if that fails."""
        try:
            return self.stream.send(line) == len(line)
        except OSError:
            return False

    # --- to the guest ---------------------------------------------------------------------------

    def establish(self, *answer: Op) -> None:
        """Let data flow, after an answer to the guest if it waits for one."""
        self.is_established = True
        self._control.update(answer)

    def reset(self) -> Header:
        """Return the RST that ends the connection."""
        cid, port, own_port = self.key
        return Header(cid, self._own_cid, port, own_port, op=Op.RST)

    def ask(self, op: Op) -> None:
        """Have a control packet sent to the guest."""
        self._control.add(op)

    @property
    def credit(self) -> int:
        """The number of bytes that the guest has room for."""
        under_way = (self._given - self._guest_taken) & MASK32
        return max(self._guest_room - under_way, 0)

    @property
    def wants_input(self) -> bool:
        """Whether the socket should be read."""
        return self._may_give and self.credit > 0

    @property
    def _is_starved(self) -> bool:
        return self._may_give and not self.credit

    @property
    def _may_give(self) -> bool:
        return self.is_established and not self.is_eof and not self._guest_flags & NO_RECEIVE

    def next_packet(self, room: int) -> bytes | None:
        """Return the next packet for the guest; None if there is none now."""
        for op in _CONTROL:
            if op in self._control:
                self._control.discard(op)
                return self._packet(op)
        if self._is_starved and not self._has_asked:
            self._has_asked = True
            return self._packet(Op.CREDIT_REQUEST)
        data = self._read(min(room, self.credit)) if self.wants_input and room else b""
        if data:
            self._given = (self._given + len(data)) & MASK32
            return self._packet(Op.RW, data)
        if self._shutdown:
            flags, self._shutdown = self._shutdown, 0
            return self._packet(Op.SHUTDOWN, flags=flags)
        return None

    def _read(self, room: int) -> bytes:
        try:
            data = self.stream.recv(room)
        except BlockingIOError:
            return b""
        except OSError:
            self.is_eof, self._shutdown = True, NO_RECEIVE | NO_SEND
            return b""
        if not data:
            self.is_eof, self._shutdown = True, NO_SEND
            if self._is_hung_up():
                self._shutdown |= NO_RECEIVE
        return data

    def _is_hung_up(self) -> bool:
        """Check whether the peer has closed its socket, not only the one direction."""
        poll = select.poll()
        poll.register(self.stream, 0)
        return bool(poll.poll(0))

    def _packet(self, op: Op, data: bytes = b"", flags: int = 0) -> bytes:
        self._told = self._taken
        cid, port, own_port = self.key
        header = Header(
            cid, self._own_cid, port, own_port, len(data), STREAM, op, flags, BUFFER, self._taken
        )
        return header.pack() + data
