"""The PL011, Arm's PrimeCell serial port.

The line is infinitely fast: a written byte leaves at once, so the transmitter is always empty and
ready.  Not modelled: baud rate, parity, modem lines, loopback, DMA, line errors other than a break,
and that the port must be enabled.

Source: Arm DDI 0183, programmer's model.
"""

from collections.abc import Callable
from typing import Final

from pyvmm.arch import saved
from pyvmm.arch.saved import State
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.serial_port import FIFO_SIZE, MANY_POLLS, SerialPort
from pyvmm.devices.tree import Place, TreeWriter, Trigger

_DR, _RSR, _FR, _ILPR, _IBRD, _FBRD = 0x00, 0x04, 0x18, 0x20, 0x24, 0x28
_LCR_H, _CR, _IFLS, _IMSC, _RIS, _MIS, _ICR, _DMACR = range(0x2C, 0x4C, 4)
_IDS, _IDS_END = 0xFE0, 0x1000
_ID_BYTES: Final = bytes((0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1))  # revision 1

_FR_CTS, _FR_DSR, _FR_DCD, _FR_RXFE, _FR_RXFF, _FR_TXFE = 0x01, 0x02, 0x04, 0x10, 0x40, 0x80
_FR_CONNECTED: Final = _FR_CTS | _FR_DSR | _FR_DCD | _FR_TXFE
_LCR_H_FEN: Final = 0x10
_RX, _TX, _RT, _BE = 0x010, 0x020, 0x040, 0x200  # interrupts
_LISTENING: Final = _RX | _RT
_INTERRUPTS: Final = 0x7FF
_DR_BE: Final = 0x400
#: Registers that only keep their value: their bits, and the value after reset.
_PLAIN: Final = {
    _ILPR: (0xFF, 0),
    _IBRD: (0xFFFF, 0),
    _FBRD: (0x3F, 0),
    _LCR_H: (0xFF, 0),
    _CR: (0xFF87, 0x0300),
    _IFLS: (0x3F, 0x12),
    _IMSC: (0x7FF, 0),
    _DMACR: (0x7, 0),
}
_TRIGGERS: Final = (2, 4, 8, 12, 14)  # by IFLS.RXIFLSEL; other values are reserved
_CLOCK_HZ: Final = 24_000_000


class Pl011(SerialPort):
    """One PL011: MMIO device with the PrimeCell's registers."""

    def __init__(self, irq: IrqLine, sink: Callable[[bytes], None], set_timer: SetTimer) -> None:
        super().__init__(irq, sink, set_timer, _DR_BE)
        self._registers = {offset: value for offset, (_, value) in _PLAIN.items()}
        self._raised = 0  # RIS

    def read(self, offset: int, size: int) -> int:
        """Return a register, or a part of it."""
        with self._lock:
            if offset == _DR:
                word = self._pop()
            else:
                word = self._read_register(offset & ~3) >> 8 * (offset & 3)
        return word & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        value &= (1 << 8 * size) - 1
        with self._lock:
            self._polls = 0
            if offset == _DR:
                self._output.put(value & 0xFF)
                self._raised |= _TX
            elif offset == _ICR:
                self._raised &= ~value
            elif offset in _PLAIN:
                self._registers[offset] = value & _PLAIN[offset][0]
            self._fill()
            self._update_irq()

    def save(self) -> State:
        """Return the state; what was transmitted has been passed on."""
        with self._lock:
            return self._save_line() | {
                "registers": list(self._registers.values()),
                "raised": self._raised,
            }

    def load(self, state: State) -> None:
        """Set the state; StateError if it is not one of a port."""
        with self._lock:
            values = saved.items(state, "registers", len(_PLAIN))
            for (offset, (mask, _)), value in zip(_PLAIN.items(), values, strict=True):
                self._registers[offset] = saved.number({"register": value}, "register", mask + 1)
            self._raised = saved.number(state, "raised", _INTERRUPTS + 1)
            self._load_line(state)

    def _read_register(self, offset: int) -> int:
        if offset == _FR:
            return self._read_flags()
        self._output.flush()
        if _IDS <= offset < _IDS_END:
            return _ID_BYTES[(offset - _IDS) // 4]
        if offset == _RIS:
            return self._raised
        if offset == _MIS:
            return self._raised & self._registers[_IMSC]
        return self._registers.get(offset, 0)

    def _read_flags(self) -> int:
        self._count_poll()
        is_full = len(self._fifo) >= self._room
        return _FR_CONNECTED | (_FR_RXFF if is_full else 0) | (0 if self._fifo else _FR_RXFE)

    @property
    def _room(self) -> int:
        """The number of received bytes that the port can hold."""
        return FIFO_SIZE if self._registers[_LCR_H] & _LCR_H_FEN else 1

    @property
    def _trigger(self) -> int:
        """The number of received bytes that interrupt."""
        if self._room == 1:
            return 1
        return _TRIGGERS[min(self._registers[_IFLS] >> 3 & 7, len(_TRIGGERS) - 1)]

    def _pop(self) -> int:
        self._polls = 0
        if not self._fifo:
            return 0
        word = self._fifo.popleft()
        if len(self._fifo) < self._trigger:
            self._raised &= ~_RX
        if not self._fifo:
            self._raised &= ~_RT
            self._fill()
        self._update_irq()
        return word

    def _fill(self) -> None:
        """Move waiting bytes into the FIFO if the guest is listening.

        The line is silent after them, so they also raise the receive timeout.
        """
        is_listening = self._registers[_IMSC] & _LISTENING or self._polls >= MANY_POLLS
        room = self._room - len(self._fifo)
        if not self._waiting or not is_listening or room <= 0:
            return
        for _ in range(min(room, len(self._waiting))):
            self._fifo.append(self._waiting.popleft())
        self._raised |= _RT | (_RX if len(self._fifo) >= self._trigger else 0)
        if any(word & _DR_BE for word in self._fifo):
            self._raised |= _BE
        self._update_irq()

    def _update_irq(self) -> None:
        self._set_level(bool(self._raised & self._registers[_IMSC]))


def node_path(place: Place) -> str:
    """Return the path of the port's node in the device tree."""
    return f"/pl011@{place.base:x}"


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of the port, and of the clock that its binding requires."""
    clock = tree.new_phandle()
    with tree.node(f"pl011@{place.base:x}"):
        tree.text("compatible", "arm,pl011", "arm,primecell")
        tree.wide_cells("reg", place.base, place.size)
        tree.interrupts(place.spis, Trigger.LEVEL_HIGH)
        tree.cells("clocks", clock, clock)
        tree.text("clock-names", "uartclk", "apb_pclk")
    with tree.node("uart-clk"):
        tree.text("compatible", "fixed-clock")
        tree.cells("#clock-cells", 0)
        tree.cells("clock-frequency", _CLOCK_HZ)
        tree.cells("phandle", clock)
