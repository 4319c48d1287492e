"""The 16550A, mostly against the probing by Linux's 8250 driver."""

from collections.abc import Callable

import pytest

from pyvmm.devices.serial_port import MAX_BACKLOG
from pyvmm.devices.uart import Uart
from tests.devices.driver import IrqRecorder

RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = range(1, 8)
FCR = IIR
NO_INT, THRI, RDI, LINE_STATUS, TIMEOUT = 0x01, 0x02, 0x04, 0x06, 0x0C


class Port:
    """A UART with both of its ends."""

    def __init__(self) -> None:
        self.irq = IrqRecorder()
        self.bursts: list[bytes] = []
        self.timers: list[Callable[[], None]] = []
        self.uart = Uart(self.irq, self.bursts.append, self.set_timer)

    def set_timer(self, callback: Callable[[], None], seconds: float | None) -> None:
        """Have a timer that runs out when a test calls it."""
        assert seconds
        self.timers.append(callback)

    def out(self, register: int, value: int) -> None:
        """Write a register."""
        self.uart.write(register, 1, value)

    def inp(self, register: int) -> int:
        """Read a register."""
        return self.uart.read(register, 1)

    def open(self) -> None:
        """Configure it like Linux's startup: FIFOs on, trigger level 8, receive interrupt on."""
        self.out(FCR, 0x07)
        self.out(FCR, 0x81)
        self.out(LCR, 0x03)
        self.out(MCR, 0x0B)
        self.out(IER, 0x05)


@pytest.fixture
def port() -> Port:
    """Return a UART after reset."""
    return Port()


def test_uart_is_recognised_as_16550a(port: Port) -> None:
    """autoconfig(): IER keeps 4 bits, IIR shows working FIFOs and no later chip."""
    port.out(IER, 0)
    assert port.inp(IER) & 0x0F == 0
    port.out(IER, 0xFF)
    assert port.inp(IER) == 0x0F  # no UUE, no sleep mode
    port.out(IER, 0)
    port.out(LCR, 0xBF)
    assert port.inp(IIR) != 0  # no extended feature register
    port.out(LCR, 0)
    port.out(FCR, 0x01)
    assert port.inp(IIR) >> 6 == 3
    port.out(FCR, 0x21)
    assert not port.inp(IIR) & 0x20  # no 64-byte FIFO


def test_uart_loops_modem_lines_and_data_back(port: Port) -> None:
    """autoconfig(): with LOOP, OUT2 and RTS come back as DCD and CTS; data is not sent."""
    port.out(MCR, 0x1A)
    assert port.inp(MSR) & 0xF0 == 0x90
    port.out(THR, 0x55)
    assert port.inp(LSR) & 0x01
    assert port.inp(RBR) == 0x55
    assert not port.inp(LSR) & 0x01
    port.out(MCR, 0)
    assert port.inp(MSR) & 0xF0 == 0xB0
    assert port.bursts == []


def test_uart_forgets_what_was_looped_back(port: Port) -> None:
    """Clearing the FIFO loses it, as on the chip; only the line's input waits outside."""
    port.open()
    port.uart.receive(b"line")
    for _ in range(100):
        port.out(MCR, 0x10)
        for _ in range(20):
            port.out(THR, 0x55)
        port.out(MCR, 0x0B)
        port.out(FCR, 0x83)
    assert port.uart.backlog == 0
    assert bytes(port.inp(RBR) for _ in range(5)) == b"line\0"


@pytest.mark.parametrize(("fcr", "room", "kept"), [(0x01, 16, 0x20), (0x00, 1, 0x30)])
def test_uart_overruns_in_loopback(port: Port, fcr: int, room: int, kept: int) -> None:
    """LSR.OE until it is read, and an interrupt; a FIFO keeps the old, a register has the new."""
    port.out(FCR, fcr)
    port.out(IER, 0x04)
    port.out(MCR, 0x10)
    for count in range(room):
        port.out(THR, 0x20 + count)
    assert (port.irq.is_high(), port.inp(LSR)) == (False, 0x61)
    port.out(THR, 0x30)
    assert port.irq.is_high()
    assert port.inp(IIR) & 0x0F == LINE_STATUS
    assert (port.inp(LSR), port.inp(LSR)) == (0x63, 0x61)
    assert not port.irq.is_high()
    assert port.inp(RBR) == kept


def test_uart_takes_no_more_than_it_can_keep(port: Port) -> None:
    """The memory for a guest that does not read is bounded."""
    for _ in range(3):
        port.uart.receive(bytes(MAX_BACKLOG))
        port.uart.receive_break(b"h")
    assert port.uart.backlog == MAX_BACKLOG


def test_uart_reasserts_thre_each_time_it_is_enabled(port: Port) -> None:
    """do_startup(): otherwise Linux detects a THRE bug or a bad TX enable (UART_BUG_TXEN)."""
    port.out(IER, 0x02)
    assert port.irq.is_high()
    assert port.inp(IIR) & 0x0F == THRI
    assert not port.irq.is_high()  # reading IIR cleared it
    assert port.inp(IIR) & 0x0F == NO_INT
    port.out(IER, 0)
    port.out(IER, 0x02)
    assert port.inp(LSR) & 0x60 == 0x60
    assert port.inp(IIR) & 0x0F == THRI
    port.out(IER, 0)
    assert not port.irq.is_high()


def test_uart_interrupts_after_a_written_burst(port: Port) -> None:
    """A driver that fills the FIFO is told at once that it is empty again."""
    port.open()
    port.out(IER, 0x07)
    assert port.inp(IIR) & 0x0F == THRI
    rises = port.irq.rises
    for byte in b"hello":
        port.out(THR, byte)
    assert (port.irq.is_high(), port.irq.rises) == (True, rises + 1)
    assert port.inp(IIR) & 0x0F == THRI
    assert port.bursts == [b"hello"]


@pytest.mark.parametrize("fcr", [0, 1])
def test_uart_hands_output_on_by_lines(port: Port, fcr: int) -> None:
    """A driver that asks before each byte whether it may write makes lines, too."""
    port.out(FCR, fcr)
    for byte in b"ab\ncd\n" + b"e" * 257:
        assert port.inp(LSR) & 0x20
        port.out(THR, byte)
    assert port.bursts == [b"ab\n", b"cd\n", b"e" * 256]
    port.uart.flush()
    assert port.bursts[3:] == [b"e"]


def test_uart_keeps_part_of_a_line_only_for_a_moment(port: Port) -> None:
    """One timer is enough, and it is set again when there is something again."""
    for byte in b"login: ":
        port.out(THR, byte)
    assert (port.bursts, len(port.timers)) == ([], 1)
    port.timers.pop()()
    assert port.bursts == [b"login: "]
    port.out(THR, 0x0A)
    assert (port.bursts[1:], port.timers) == ([b"\n"], [])
    port.out(THR, 0x41)
    port.timers.pop()()
    assert port.bursts[2:] == [b"A"]


@pytest.mark.parametrize("register", [RBR, IER, IIR, LCR, MCR, MSR, SCR])
def test_uart_hands_part_of_a_line_on_when_its_driver_is_done(port: Port, register: int) -> None:
    """It does something else then."""
    port.out(THR, 0x41)
    port.inp(register)
    assert port.bursts == [b"A"]
    port.out(THR, 0x42)
    port.out(SCR, 0)
    assert port.bursts[1:] == [b"B"]


def test_uart_holds_input_back_until_the_guest_listens(port: Port) -> None:
    """Early piped input survives the driver's probing and clearing."""
    port.uart.receive(b"early")
    port.out(FCR, 0x07)
    assert not port.inp(LSR) & 0x01
    port.inp(RBR)
    port.open()
    assert port.irq.is_high()
    assert bytes(port.inp(RBR) for _ in range(5)) == b"early"
    assert not port.irq.is_high()


def test_uart_gives_input_to_a_polling_guest(port: Port) -> None:
    """Firmware without interrupts reads LSR again and again; without FIFO it gets single bytes."""
    port.uart.receive(b"ab")
    assert not port.irq.is_high()
    got = bytearray()
    for _ in range(100):
        if port.inp(LSR) & 1:
            got.append(port.inp(RBR))
    assert got == b"ab"


def test_uart_keeps_input_from_the_drivers_startup(port: Port) -> None:
    """8250_do_startup() reads RBR after it raises RTS and before it enables interrupts."""
    port.uart.receive(b"early")
    port.out(MCR, 0x0B)
    for register in (LSR, RBR, IIR, MSR):
        port.inp(register)
    port.open()
    assert bytes(port.inp(RBR) for _ in range(5)) == b"early"


def test_uart_loses_no_input_when_fifos_go_on_after_the_interrupt(port: Port) -> None:
    """Linux enables the receive interrupt first and the FIFOs, cleared, after it."""
    port.uart.receive(b"early")
    port.out(IER, 0x05)
    port.out(FCR, 0x01)
    port.out(FCR, 0x81)
    assert bytes(port.inp(RBR) for _ in range(5)) == b"early"


def test_uart_feeds_more_input_than_the_fifo_holds(port: Port) -> None:
    """There is no overrun: bytes that do not fit wait outside."""
    port.open()
    data = bytes(range(200))
    port.uart.receive(data)
    assert port.uart.backlog == 200 - 16
    assert port.inp(IIR) & 0x0F == RDI
    assert bytes(port.inp(RBR) for _ in range(200)) == data
    assert port.inp(RBR) == 0
    assert (port.inp(LSR), port.uart.backlog) == (0x60, 0)


def test_uart_reports_less_than_the_trigger_level_as_a_timeout(port: Port) -> None:
    """The line is idle at once, so the character time-out has always passed."""
    port.open()
    port.uart.receive(b"x")
    assert port.inp(IIR) & 0x0F == TIMEOUT


def test_uart_keeps_divisor_and_scratch(port: Port) -> None:
    """DLAB switches the first two registers over to the divisor."""
    port.out(LCR, 0x83)
    port.out(0, 0x12)
    port.out(1, 0x34)
    assert (port.inp(0), port.inp(1)) == (0x12, 0x34)
    port.out(LCR, 0x03)
    port.out(SCR, 0xA5)
    assert (port.inp(IER), port.inp(LCR), port.inp(SCR)) == (0, 0x03, 0xA5)
    assert port.bursts == []


def test_uart_takes_any_access() -> None:
    """Any offset, size and value is answered with a byte."""
    port = Port()
    for offset in range(16):
        for size in (1, 2, 4, 8):
            port.uart.write(offset, size, (1 << 64) - 1)
            assert 0 <= port.uart.read(offset, size) <= 0xFF


def test_uart_shows_a_break_once_and_before_what_follows(port: Port) -> None:
    """LSR.BI comes with a zero byte; the bytes after it come without LSR.BI."""
    port.open()
    port.uart.receive(b"a")
    port.uart.receive_break(b"h")
    assert (port.inp(LSR), port.inp(RBR)) == (0x61, ord("a"))
    assert (port.inp(LSR), port.inp(LSR), port.inp(RBR)) == (0x71, 0x61, 0)
    assert (port.inp(LSR), port.inp(RBR), port.inp(LSR)) == (0x61, ord("h"), 0x60)


def test_uart_break_that_is_not_looked_at_is_a_zero(port: Port) -> None:
    """A driver that does not check for errors reads a zero."""
    port.open()
    port.uart.receive_break(b"h")
    assert (port.inp(RBR), port.inp(RBR)) == (0, ord("h"))
