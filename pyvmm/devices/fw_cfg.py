"""QEMU's firmware configuration device: items that firmware reads by number or by name.

A selector chooses an item, the data register returns its bytes one after another, and the DMA
register takes the address of a request in guest memory.  Nothing can be written.

Source: QEMU's specification "QEMU Firmware Configuration (fw_cfg) Device".
"""

import struct
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

from pyvmm.arch.errors import RepeatAccess
from pyvmm.devices.dma import Dma, DmaFault
from pyvmm.devices.tree import Place, TreeWriter

SIZE: Final = 0x18
_DATA, _SELECTOR, _DMA, _DMA_LOW = 0x00, 0x08, 0x10, 0x14
_DATA_END: Final = _DATA + 8
_DMA_SIGNATURE: Final = int.from_bytes(b"QEMU CFG")
_request = struct.Struct(">IIQ")  # control, length, address
_ERROR, _READ, _SKIP, _SELECT, _WRITE = 1, 2, 4, 8, 16
_PIECE: Final = 1 << 20  # transferred at a time

_SIGNATURE_ITEM, _ID_ITEM, _DIRECTORY_ITEM, _FIRST_FILE = 0x00, 0x01, 0x19, 0x20
_HAS_DMA: Final = 0b11  # bit 0: the interface by registers
_entry = struct.Struct(">IHH56s")  # size, selector, reserved, name


class FwCfg:
    """An MMIO device; any thread may call.

    Args:
        dma: guest memory.
        items: the items by number, besides those that describe the device itself.
        files: the items with names.
        is_halting: whether vCPUs must stand still.
    """

    def __init__(
        self,
        dma: Dma,
        items: Mapping[int, bytes],
        files: Mapping[str, bytes],
        is_halting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._dma = dma
        self._is_halting = is_halting
        self._items = {
            **items,
            _SIGNATURE_ITEM: b"QEMU",
            _ID_ITEM: _HAS_DMA.to_bytes(4, "little"),
            _DIRECTORY_ITEM: _directory(files),
            **dict(enumerate(files.values(), _FIRST_FILE)),
        }
        self._lock = Lock()
        self._item = b""
        self._position = 0
        self._dma_high = 0

    def read(self, offset: int, size: int) -> int:
        """Read the next bytes of the item, or the signature of the DMA register."""
        with self._lock:
            if offset < _DATA_END:
                piece = self._item[self._position : self._position + size]
                self._position += size
                return int.from_bytes(piece.ljust(size, b"\0"), "little")
        if offset < _DMA:
            return 0
        signature = _DMA_SIGNATURE.to_bytes(8)
        return int.from_bytes(signature[offset - _DMA :][:size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item, or start a request.

        Raises:
            RepeatAccess: the vCPU has to repeat it, because it must stop now.
        """
        number = int.from_bytes((value & (1 << 8 * size) - 1).to_bytes(size, "little"))
        with self._lock:
            if offset == _SELECTOR and size == 2:
                self._select(number)
            elif offset == _DMA and size == 4:
                self._dma_high = number
            elif offset == _DMA_LOW and size == 4:
                self._transfer(self._dma_high << 32 | number)
            elif offset == _DMA and size == 8:
                self._transfer(number)

    def _select(self, number: int) -> None:
        self._item = self._items.get(number, b"")
        self._position = 0

    def _transfer(self, address: int) -> None:
        """Perform the request at ``address``, and note there whether it has failed."""
        self._dma_high = 0
        try:
            control, length, target = _request.unpack(self._dma.read(address, _request.size))
        except DmaFault:
            return
        if control & _SELECT:
            self._select(control >> 16)
        is_done = True
        if control & _READ:
            is_done = self._copy(target, length)
        elif control & _WRITE:
            is_done = False
        if control & (_READ | _SKIP):
            self._position += length
        try:
            self._dma.write(address, (0 if is_done else _ERROR).to_bytes(4))
        except DmaFault:
            return

    def _copy(self, target: int, length: int) -> bool:
        """Copy from the item, and zeros behind its end; return whether that was possible.

        Raises:
            RepeatAccess: vCPUs must stop; nothing has been consumed.
        """
        for done in range(0, length, _PIECE):
            if done and self._is_halting():
                raise RepeatAccess
            size = min(_PIECE, length - done)
            start = self._position + done
            try:
                self._dma.write(target + done, self._item[start : start + size].ljust(size, b"\0"))
            except DmaFault:
                return False
        return True


def _directory(files: Mapping[str, bytes]) -> bytes:
    """Return the item that lists the files."""
    entries = [
        _entry.pack(len(data), number, 0, name.encode())
        for number, (name, data) in enumerate(files.items(), _FIRST_FILE)
    ]
    return len(entries).to_bytes(4) + b"".join(entries)


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of the device."""
    with tree.node(f"fw-cfg@{place.base:x}"):
        tree.text("compatible", "qemu,fw-cfg-mmio")
        tree.wide_cells("reg", place.base, place.size)
        tree.flag("dma-coherent")
