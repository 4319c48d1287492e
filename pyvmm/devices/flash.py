"""NOR flash with the interface of QEMU's machine `virt`: Intel's command set, a bus of 32 bits.

Two chips of 16 bits share the bus, so a word has the state of both.  While an array is read, the
flash is memory of the guest (``FlashMemory``), and only writes come here; between a command and
"read array", reads come here too.  Every command takes effect at once.

Programming only clears bits, and an erased block has ones.  Not modelled: suspended commands, and
block locks, which a driver may set without effect.

Source: JEDEC JESD68.01 (CFI); JEP137 (command set 1); Intel's StrataFlash P30 data sheet.
"""

from collections.abc import Callable
from threading import Lock
from typing import Final, Protocol

from pyvmm.devices.tree import Place, TreeWriter

BLOCK_SIZE: Final = 256 << 10  # of both chips together
_WIDTH: Final = 4
_BUFFER_SIZE: Final = 4096  # of both chips together

_READ_ARRAY: Final = frozenset({0xFF, 0xF0, 0x00})
_PROGRAM: Final = frozenset({0x10, 0x40})
_ERASE, _CLEAR_STATUS, _LOCK, _READ_STATUS, _READ_ID, _QUERY, _BUFFER, _CONFIRM = (
    0x20, 0x50, 0x60, 0x70, 0x90, 0x98, 0xE8, 0xD0,
)  # fmt: skip
_LOCK_MODES: Final = frozenset({0x01, 0x2F, _CONFIRM})
_READY, _ERASE_ERROR, _PROGRAM_ERROR, _LOCKED = 0x80, 0x20, 0x10, 0x02
_SEQUENCE_ERROR: Final = _ERASE_ERROR | _PROGRAM_ERROR
_IDS: Final = (0x89, 0x18)  # manufacturer, device


class FlashMemory(Protocol):
    """The content; offsets are inside."""

    @property
    def size(self) -> int:
        """Its size in bytes, a power of two of blocks."""

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of the bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""

    def set_visible(self, *, is_visible: bool) -> None:
        """Let the guest read it as memory, or not."""


class FlashStore(Protocol):
    """What keeps the content when the guest has ended."""

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes; OSError if the host's storage fails."""


class Flash:
    """One bank, an MMIO device; any thread may call.

    Args:
        memory: the content.
        store: gets every change, if there is one.
        is_protected: the guest cannot change the content.
        on_failure: called if the store fails; the guest gets a status with an error.
    """

    def __init__(
        self,
        memory: FlashMemory,
        store: FlashStore | None = None,
        *,
        is_protected: bool = False,
        on_failure: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._memory = memory
        self._store = store
        self._is_protected = is_protected
        self._on_failure = on_failure
        self._query = _query_table(memory.size)
        self._lock = Lock()
        self._command = 0  # the one whose next write is awaited; 0: none
        self._status = _READY
        self._read_word: Callable[[int], int] = self._read_status  # outside the array
        self._is_array = True
        self._room = 0  # words that the buffer still takes; -1: it waits for the confirmation
        self._buffer: dict[int, bytes] = {}  # by offset

    def read(self, offset: int, size: int) -> int:
        """Read the array, the status or an identification."""
        with self._lock:
            if offset + size > self._memory.size:
                return 0
            if self._is_array:
                return int.from_bytes(self._memory.read(offset, size), "little")
            word = self._read_word(offset // _WIDTH)
            pair = word | word << 16
            return (pair | pair << 32) >> 8 * (offset % _WIDTH) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a command, or the data of one."""
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        with self._lock:
            if offset + size > self._memory.size:
                return
            if self._command == _BUFFER:
                self._fill_buffer(offset, data)
            elif self._command:
                self._end_command(offset, data)
            else:
                self._begin_command(data[0])

    # --- commands -----------------------------------------------------------------------------

    def _begin_command(self, command: int) -> None:
        if command in _READ_ARRAY:
            self._show_array()
            return
        self._is_array = False
        self._memory.set_visible(is_visible=False)
        self._read_word = self._read_status
        if command in _PROGRAM or command in {_ERASE, _LOCK}:
            self._command = command
        elif command == _BUFFER:
            self._command, self._room, self._buffer = command, 0, {}
        elif command == _CLEAR_STATUS:
            self._status = _READY
        elif command == _READ_ID:
            self._read_word = self._read_id
        elif command == _QUERY:
            self._read_word = self._read_query
        elif command != _READ_STATUS:
            self._show_array()

    def _end_command(self, offset: int, data: bytes) -> None:
        """Take the second write of a command."""
        command, self._command = self._command, 0
        if command in _PROGRAM:
            self._program(offset, data)
        elif data[0] in _READ_ARRAY:
            self._show_array()
        elif command == _ERASE and data[0] == _CONFIRM:
            self._erase(offset // BLOCK_SIZE * BLOCK_SIZE)
        elif command == _ERASE or data[0] not in _LOCK_MODES:
            self._status |= _SEQUENCE_ERROR

    def _fill_buffer(self, offset: int, data: bytes) -> None:
        """Take the number of words, then the words, then the confirmation."""
        if self._room > 0:
            self._buffer[offset] = data
            self._room = self._room - 1 or -1
        elif self._room == 0:
            count = int.from_bytes(data[:2], "little") + 1
            if count * _WIDTH <= _BUFFER_SIZE:
                self._room = count
            else:
                self._fail_buffer()
        elif data[0] == _CONFIRM and len({each // _BUFFER_SIZE for each in self._buffer}) == 1:
            self._command = 0
            self._program_buffer()
        else:
            self._fail_buffer()

    def _fail_buffer(self) -> None:
        self._command, self._buffer = 0, {}
        self._status |= _SEQUENCE_ERROR

    def _program_buffer(self) -> None:
        start = min(self._buffer)
        end = max(offset + len(data) for offset, data in self._buffer.items())
        piece = bytearray(b"\xff" * (end - start))
        for offset, data in self._buffer.items():
            piece[offset - start : offset - start + len(data)] = data
        self._buffer = {}
        self._program(start, bytes(piece))

    def _show_array(self) -> None:
        self._is_array = True
        self._memory.set_visible(is_visible=True)

    # --- the content --------------------------------------------------------------------------

    def _program(self, offset: int, data: bytes) -> None:
        old = int.from_bytes(self._memory.read(offset, len(data)), "little")
        new = old & int.from_bytes(data, "little")
        self._change(offset, new.to_bytes(len(data), "little"), _PROGRAM_ERROR)

    def _erase(self, offset: int) -> None:
        self._change(offset, b"\xff" * BLOCK_SIZE, _ERASE_ERROR)

    def _change(self, offset: int, data: bytes, error_status: int) -> None:
        if self._is_protected:
            self._status |= error_status | _LOCKED
            return
        if self._store is not None:
            try:
                self._store.write(offset, data)
            except OSError as error:
                self._status |= error_status
                self._on_failure(error)
                return
        self._memory.write(offset, data)

    # --- reads outside the array --------------------------------------------------------------

    def _read_status(self, _word: int) -> int:
        return self._status

    def _read_id(self, word: int) -> int:
        return _IDS[word] if word < len(_IDS) else 0  # and of each block: it is not locked

    def _read_query(self, word: int) -> int:
        return self._query.get(word, 0)


def _query_table(size: int) -> dict[int, int]:
    """Return the CFI table of each of the two chips: bytes by word offset."""
    blocks = size // BLOCK_SIZE
    parts = {
        0x10: b"QRY\x01\x00\x31\x00",  # command set 1; its table below
        0x1B: b"\x45\x55\x00\x00",  # volts
        0x1F: b"\x07\x07\x0a\x00\x04\x04\x04\x00",  # times as powers of two: typical, maximum
        0x27: bytes((size.bit_length() - 2,)) + b"\x02\x00",  # size; interface of 8 or 16 bits
        0x2A: bytes(((_BUFFER_SIZE // 2).bit_length() - 1, 0)),
        0x2C: b"\x01",  # regions with blocks of one size
        0x2D: (blocks - 1).to_bytes(2, "little") + (BLOCK_SIZE // 2 >> 8).to_bytes(2, "little"),
        0x31: b"PRI10",  # version 1.0: no optional features
        0x3A: b"\x00\x01\x00\x00\x00\x01",  # block status bits; one protection register
    }
    return {start + n: byte for start, part in parts.items() for n, byte in enumerate(part)}


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of the two banks, each half of the place."""
    half = place.size // 2
    with tree.node(f"flash@{place.base:x}"):
        tree.text("compatible", "cfi-flash")
        tree.wide_cells("reg", place.base, half, place.base + half, half)
        tree.cells("bank-width", _WIDTH)
