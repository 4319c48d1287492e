"""The 16550A serial port (8250 family); like kvmtool, a guest has four.

The line is infinitely fast: a written byte leaves at once, so the transmitter is always empty.
Not modelled: baud rate, parity, line errors other than a break and, in loopback, an overrun; modem
lines outside loopback.
Source: National Semiconductor PC16550D data sheet.
"""

from collections.abc import Callable

from pyvmm.arch import saved
from pyvmm.arch.saved import State
from pyvmm.devices.bus import IrqLine
from pyvmm.devices.ioloop import SetTimer
from pyvmm.devices.serial_port import FIFO_SIZE, MANY_POLLS, SerialPort
from pyvmm.devices.tree import Place, TreeWriter, Trigger

# Register offsets; the first two are the divisor latch while LCR.DLAB is set.
_RBR_THR, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCR = range(8)

_IER_RDI, _IER_THRI, _IER_RLSI, _IER_MSI, _IER_WRITABLE = 0x01, 0x02, 0x04, 0x08, 0x0F
_IIR_NONE, _IIR_MSI, _IIR_THRI, _IIR_RDI, _IIR_RLSI, _IIR_TIMEOUT = 1, 0, 2, 4, 6, 0x0C
_IIR_FIFO_ENABLED = 0xC0
_FCR_ENABLE, _FCR_CLEAR_RX, _FCR_TRIGGER_SHIFT = 0x01, 0x02, 6
_LCR_DLAB = 0x80
_MCR_DTR, _MCR_RTS, _MCR_OUT1, _MCR_OUT2, _MCR_LOOP, _MCR_WRITABLE = 1, 2, 4, 8, 0x10, 0x1F
_LSR_DR, _LSR_OE, _LSR_BI, _LSR_TX_EMPTY = 0x01, 0x02, 0x10, 0x60  # the last: THRE and TEMT
_MSR_CTS, _MSR_DSR, _MSR_RI, _MSR_DCD, _MSR_DELTAS = 0x10, 0x20, 0x40, 0x80, 0x0F
_MSR_CONNECTED = _MSR_CTS | _MSR_DSR | _MSR_DCD

_NODE_NAME = "U6_16550A"  # kvmtool's
_CLOCK_HZ = 1_843_200

_TRIGGER_LEVELS = (1, 4, 8, 14)
_SAVED_REGISTERS = {
    **dict.fromkeys(("_ier", "_fcr", "_lcr", "_mcr", "_lsr", "_msr", "_scratch"), 0xFF),
    "_divisor": 0xFFFF,
}
_BREAK = 0x100  # in a FIFO: a zero with a break condition
_LOOPED = 0x200  # in a FIFO: not from the line


class Uart(SerialPort):
    """One 16550A: MMIO device of 8 byte-wide registers."""

    def __init__(self, irq: IrqLine, sink: Callable[[bytes], None], set_timer: SetTimer) -> None:
        super().__init__(irq, sink, set_timer, _BREAK)
        self._ier = 0
        self._fcr = 0
        self._lcr = 0
        self._mcr = 0
        self._lsr = _LSR_TX_EMPTY
        self._msr = _MSR_CONNECTED
        self._scratch = 0
        self._divisor = 0x000C
        self._thr_interrupt = False  # the "transmitter became empty" condition, until IIR shows it

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write one register; only the low byte counts."""
        value &= 0xFF
        with self._lock:
            if offset == _RBR_THR and not self._lcr & _LCR_DLAB:
                self._transmit(value)
                return
            self._output.flush()
            self._polls = 0
            self._write_register(offset, value)

    def read(self, offset: int, _size: int) -> int:
        """Read one register."""
        with self._lock:
            if offset == _LSR:
                self._count_poll()
                return self._read_lsr()
            self._output.flush()
            self._polls = 0
            if offset == _RBR_THR:
                return self._divisor & 0xFF if self._lcr & _LCR_DLAB else self._pop()
            return self._read_register(offset)

    def save(self) -> State:
        """Return the state; what was transmitted has been passed on."""
        with self._lock:
            return self._save_line() | saved.save(self, (*_SAVED_REGISTERS, "_thr_interrupt"))

    def load(self, state: State) -> None:
        """Set the state; StateError if it is not one of a port."""
        with self._lock:
            self._load_line(state)
            self._thr_interrupt = state.get("_thr_interrupt") is True
            for name, mask in _SAVED_REGISTERS.items():
                setattr(self, name, saved.number(state, name, mask + 1))

    def _transmit(self, byte: int) -> None:
        self._polls = 0
        if self._mcr & _MCR_LOOP:
            self._loop_back(byte)
        else:
            self._output.put(byte)
        self._thr_interrupt = True
        if self._ier:
            self._update_irq()

    def _loop_back(self, byte: int) -> None:
        """Receive the transmitted byte; if there is no room, it is an overrun.

        A FIFO keeps its contents; without one, the receive register is overwritten.
        """
        if len(self._fifo) >= self._room:
            self._lsr |= _LSR_OE
            if self._fcr & _FCR_ENABLE:
                return
            self._fifo.clear()
        self._fifo.append(byte | _LOOPED)
        self._lsr |= _LSR_DR

    @property
    def _room(self) -> int:
        """The number of received bytes that the port can hold."""
        return FIFO_SIZE if self._fcr & _FCR_ENABLE else 1

    def _pop(self) -> int:
        if not self._fifo:
            return 0
        byte = self._fifo.popleft() & 0xFF
        if not self._fifo:
            self._lsr &= ~_LSR_DR
            self._fill()
        self._update_irq()
        return byte

    def _fill(self) -> None:
        is_listening = self._ier & _IER_RDI or self._polls >= MANY_POLLS
        if not self._waiting or not is_listening or self._mcr & _MCR_LOOP:
            return
        for _ in range(min(self._room - len(self._fifo), len(self._waiting))):
            self._fifo.append(self._waiting.popleft())
        if self._fifo:
            self._lsr |= _LSR_DR
        self._update_irq()

    def _read_lsr(self) -> int:
        """Return LSR; an overrun is shown once, a break when its character is next."""
        value = self._lsr
        if value & _LSR_OE:
            self._lsr &= ~_LSR_OE
            self._update_irq()
        if self._fifo and self._fifo[0] == _BREAK:
            self._fifo[0] = 0
            value |= _LSR_BI
        return value

    def _read_register(self, offset: int) -> int:
        if offset == _IIR_FCR:
            return self._read_iir()
        if offset == _IER:
            return self._divisor >> 8 if self._lcr & _LCR_DLAB else self._ier
        if offset == _MSR:
            value = self._msr
            self._msr &= ~_MSR_DELTAS
            self._update_irq()
            return value
        return {_LCR: self._lcr, _MCR: self._mcr, _SCR: self._scratch}.get(offset, 0)

    def _read_iir(self) -> int:
        source = self._source()
        if source == _IIR_THRI:  # reading it clears it
            self._thr_interrupt = False
            self._update_irq()
        return source | (_IIR_FIFO_ENABLED if self._fcr & _FCR_ENABLE else 0)

    def _write_register(self, offset: int, value: int) -> None:
        if self._lcr & _LCR_DLAB and offset <= _IER:
            shift = 8 * offset
            self._divisor = self._divisor & ~(0xFF << shift) | value << shift
        elif offset == _IER:
            self._write_ier(value & _IER_WRITABLE)
        elif offset == _IIR_FCR:
            self._write_fcr(value)
        elif offset == _LCR:
            self._lcr = value
        elif offset == _MCR:
            self._write_mcr(value & _MCR_WRITABLE)
        elif offset == _SCR:
            self._scratch = value

    def _write_ier(self, value: int) -> None:
        # Enabling the interrupt while the transmitter is empty raises it again: Linux tests this
        # at startup and falls back to a polling timer otherwise.
        if value & ~self._ier & _IER_THRI:
            self._thr_interrupt = True
        self._ier = value
        self._fill()
        self._update_irq()

    def _write_fcr(self, value: int) -> None:
        if value & _FCR_CLEAR_RX or (value ^ self._fcr) & _FCR_ENABLE:
            # Input from the line is not lost: drivers clear the FIFO at their start.
            self._waiting.extendleft(each for each in reversed(self._fifo) if each < _LOOPED)
            self._fifo.clear()
            self._lsr &= ~_LSR_DR
        self._fcr = value if value & _FCR_ENABLE else 0
        self._fill()
        self._update_irq()

    def _write_mcr(self, value: int) -> None:
        self._mcr = value
        lines = _looped_lines(value) if value & _MCR_LOOP else _MSR_CONNECTED
        changed = (lines ^ self._msr) & 0xF0
        self._msr = lines | (self._msr & _MSR_DELTAS) | changed >> 4
        self._fill()
        self._update_irq()

    def _source(self) -> int:
        """Return the IIR identification of the most urgent enabled interrupt."""
        if self._ier & _IER_RLSI and self._lsr & _LSR_OE:
            return _IIR_RLSI
        if self._ier & _IER_RDI and self._fifo:
            level = _TRIGGER_LEVELS[self._fcr >> _FCR_TRIGGER_SHIFT]
            is_below = self._fcr & _FCR_ENABLE and len(self._fifo) < level
            return _IIR_TIMEOUT if is_below else _IIR_RDI
        if self._ier & _IER_THRI and self._thr_interrupt:
            return _IIR_THRI
        if self._ier & _IER_MSI and self._msr & _MSR_DELTAS:
            return _IIR_MSI
        return _IIR_NONE

    def _update_irq(self) -> None:
        self._set_level(self._source() != _IIR_NONE)


def _looped_lines(mcr: int) -> int:
    """Return the modem lines that result from the driver's own outputs in loopback."""
    return (
        (_MSR_CTS if mcr & _MCR_RTS else 0)
        | (_MSR_DSR if mcr & _MCR_DTR else 0)
        | (_MSR_RI if mcr & _MCR_OUT1 else 0)
        | (_MSR_DCD if mcr & _MCR_OUT2 else 0)
    )


def node_path(place: Place) -> str:
    """Return the path of a port's node in the device tree."""
    return f"/{_NODE_NAME}@{place.base:x}"


def describe(tree: TreeWriter, place: Place) -> None:
    """Write the node of a port."""
    with tree.node(f"{_NODE_NAME}@{place.base:x}"):
        tree.text("compatible", "ns16550a")
        tree.wide_cells("reg", place.base, place.size)
        tree.cells("clock-frequency", _CLOCK_HZ)
        tree.interrupts(place.spis, Trigger.LEVEL_HIGH)
