"""MSI-X: the interrupts of a PCI function as messages, one per vector, which software can mask.

Spec: PCI Local Bus 3.0, 6.8.2.
"""

from collections.abc import Callable
from struct import Struct, pack
from typing import Final

from pyvmm.arch.saved import State, StateError, number

MAX_VECTORS: Final = 128
TABLE_SIZE: Final = 16 * MAX_VECTORS
#: The pending bits follow the table.
PENDING_OFFSET: Final = TABLE_SIZE
WINDOW_SIZE: Final = 0x1000

CONTROL: Final = 2  # in the capability
_ENABLE: Final = 1 << 15
_MASK_ALL: Final = 1 << 14
_ENTRY_MASKED: Final = 1

_read_entry = Struct("<QII").unpack_from  # address, data, control

#: Sends a message: the address and the data of a write by the function.
Send = Callable[[int, int], None]


class Msix:
    """The vectors of one function; its window has the table and the pending bits.

    Concurrency: the function's lock is held.
    """

    def __init__(self, num_vectors: int, send: Send) -> None:
        self.num_vectors = num_vectors
        self.is_enabled = False
        self._is_masked = False
        self._pending = 0
        self._table = bytearray(pack("<QII", 0, 0, _ENTRY_MASKED) * num_vectors)
        self._send = send

    def capability(self, bar: int, offset: int) -> tuple[bytes, bytes]:
        """Return the body of the capability for a window in a BAR, and the mask for software."""
        body = pack("<HII", self.num_vectors - 1, offset | bar, offset + PENDING_OFFSET | bar)
        return body, pack("<H", _ENABLE | _MASK_ALL)

    def control(self, value: int) -> None:
        """Take the message control of the capability."""
        self.is_enabled = bool(value & _ENABLE)
        self._is_masked = bool(value & _MASK_ALL)
        self._send_pending(self._pending)

    def save(self) -> State:
        """Return the table and the pending bits; the capability has the rest."""
        return {"table": bytes(self._table), "pending": self._pending}

    def load(self, state: State, control: int) -> None:
        """Set the state, with the message control of the capability; send nothing.

        Raises:
            StateError: it is not the state of so many vectors.
        """
        table = state.get("table")
        if not isinstance(table, bytes) or len(table) != len(self._table):
            raise StateError("the vectors have another size")
        self._pending = number(state, "pending", 1 << self.num_vectors)
        self._table[:] = table
        for place in range(12, len(table), 16):
            self._table[place : place + 4] = bytes((table[place] & _ENTRY_MASKED, 0, 0, 0))
        self.is_enabled = bool(control & _ENABLE)
        self._is_masked = bool(control & _MASK_ALL)

    def raise_vector(self, vector: int) -> None:
        """Send the message of a vector, or make it pending if it is masked."""
        if self.is_enabled and vector < self.num_vectors:
            self._pending |= 1 << vector
            self._send_pending(1 << vector)

    def _send_pending(self, vectors: int) -> None:
        """Send the messages that are pending and not masked, of a set of vectors."""
        vectors &= self._pending
        if self._is_masked or not self.is_enabled:
            return
        while vectors:
            vector = vectors.bit_length() - 1
            vectors ^= 1 << vector
            address, data, control = _read_entry(self._table, 16 * vector)
            if not control & _ENTRY_MASKED:
                self._pending ^= 1 << vector
                self._send(address, data)

    def read(self, offset: int, size: int) -> int:
        """Read the window."""
        if offset >= PENDING_OFFSET:
            return self._pending >> 8 * (offset - PENDING_OFFSET) & (1 << 8 * size) - 1
        return int.from_bytes(self._table[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write words of the table; the pending bits cannot be written."""
        if offset % 4 or size < 4:
            return
        for place in range(offset, min(offset + size, len(self._table)), 4):
            word = value & 0xFFFF_FFFF
            if place % 16 == 12:
                word &= _ENTRY_MASKED
            self._table[place : place + 4] = word.to_bytes(4, "little")
            value >>= 32
        self._send_pending(self._pending)
