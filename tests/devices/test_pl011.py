"""The PL011, mostly against Linux's amba-pl011 driver and firmware that polls."""

import random

import pytest

from pyvmm.devices.ioloop import Callback
from pyvmm.devices.pl011 import Pl011
from pyvmm.devices.serial_port import MAX_BACKLOG
from tests.devices.driver import IrqRecorder

DR, FR, LCR_H, CR, IFLS, IMSC, RIS, MIS, ICR = (
    0x00, 0x18, 0x2C, 0x30, 0x34, 0x38, 0x3C, 0x40, 0x44,
)  # fmt: skip
RXFE, RXFF, TXFF = 0x10, 0x40, 0x20
RX, TX, RT, BE = 0x10, 0x20, 0x40, 0x200
FEN = 0x70  # 8 bits, FIFOs


class Port:
    """A port with both of its ends."""

    def __init__(self) -> None:
        self.irq = IrqRecorder()
        self.bursts: list[bytes] = []
        self.timers: list[Callback] = []
        self.uart = Pl011(self.irq, self.bursts.append, self.set_timer)

    def set_timer(self, callback: Callback, seconds: float | None) -> None:
        """Have a timer that runs out when a test calls it."""
        assert seconds
        self.timers.append(callback)

    def out(self, register: int, value: int) -> None:
        """Write a register."""
        self.uart.write(register, 4, value)

    def inp(self, register: int) -> int:
        """Read a register."""
        return self.uart.read(register, 4)

    def open(self) -> None:
        """Configure it like Linux's startup."""
        self.out(IFLS, 0x12)
        self.out(LCR_H, FEN)
        self.out(CR, 0x301)
        self.out(ICR, RX | RT)
        self.out(IMSC, RX | RT)


@pytest.fixture
def port() -> Port:
    """Return a port after reset."""
    return Port()


def test_identifies_itself_as_revision_1(port: Port) -> None:
    """So Linux assumes 16 bytes in each FIFO."""
    ids = [port.inp(offset) for offset in range(0xFE0, 0x1000, 4)]
    assert bytes(ids[:4]) == b"\x11\x10\x14\0"
    assert bytes(ids[4:]) == b"\x0d\xf0\x05\xb1"


def test_output_leaves_in_lines(port: Port) -> None:
    """A part of a line leaves after a moment, or when the port is flushed."""
    for byte in b"one\ntwo":
        assert not port.inp(FR) & TXFF
        port.out(DR, byte)
    assert port.bursts == [b"one\n"]
    port.timers[-1]()
    assert port.bursts == [b"one\n", b"two"]
    port.out(DR, ord("!"))
    port.uart.flush()
    assert port.bursts[-1] == b"!"


def test_a_sent_byte_interrupts_until_it_is_cleared(port: Port) -> None:
    """The FIFO becomes empty at once; enabling the interrupt alone does not raise it."""
    port.out(IMSC, TX)
    assert not port.irq.is_high()
    port.out(DR, 0x41)
    assert port.inp(MIS) == TX
    assert port.irq.is_high()
    port.out(ICR, TX)
    assert not port.irq.is_high()


def test_input_waits_until_the_driver_listens(port: Port) -> None:
    """What was typed before Linux opens the port is not lost; every byte interrupts."""
    port.uart.receive(b"early")
    assert port.inp(FR) & RXFE
    port.open()
    assert port.irq.is_high()
    assert bytes(port.inp(DR) for _ in range(5)) == b"early"
    assert not port.irq.is_high()
    port.uart.receive(b"x")
    assert port.inp(MIS) == RT
    assert (port.inp(DR), port.inp(FR) & RXFE) == (ord("x"), RXFE)
    assert not port.irq.is_high()


def test_more_than_a_fifo_arrives_in_order(port: Port) -> None:
    """The FIFO is filled again when the driver has emptied it, and interrupts again."""
    port.open()
    data = bytes(range(100))
    port.uart.receive(data)
    assert port.inp(FR) & RXFF
    assert port.uart.backlog == 84
    assert port.inp(MIS) == RX | RT
    received = bytearray()
    while port.irq.is_high():
        port.out(ICR, RX | RT)
        while not port.inp(FR) & RXFE:
            received.append(port.inp(DR))
    assert received == data


def test_a_driver_may_poll(port: Port) -> None:
    """Firmware enables no interrupt; it reads the flags again and again, EDK2 others with them."""
    port.uart.receive(b"ab")
    for _ in range(20):
        port.inp(CR)
        port.inp(FR)
    assert port.inp(DR) == ord("a")
    for _ in range(20):
        port.inp(FR)
    assert port.inp(DR) == ord("b")
    assert port.inp(FR) & RXFE


def test_waiting_to_send_is_not_polling(port: Port) -> None:
    """A driver reads the flags before each byte that it sends."""
    port.uart.receive(b"ab")
    for _ in range(50):
        port.inp(FR)
        port.out(DR, 0x41)
    assert port.uart.backlog == 2


def test_break_comes_with_its_character(port: Port) -> None:
    """SysRq on the console."""
    port.open()
    port.out(IMSC, RX | RT | BE)
    port.uart.receive_break(b"h")
    assert port.inp(RIS) & BE
    assert (port.inp(DR), port.inp(DR)) == (0x400, ord("h"))


def test_backlog_is_bounded(port: Port) -> None:
    """A guest that does not read costs a limited amount of memory."""
    for _ in range(3):
        port.uart.receive(bytes(MAX_BACKLOG))
    port.uart.receive_break(b"h")
    assert port.uart.backlog == MAX_BACKLOG


def test_survives_any_access(port: Port, seed: int) -> None:
    """Random registers, sizes and values: in range, and the line follows MIS."""
    rng = random.Random(seed)
    for _ in range(20_000):
        offset, size = (
            rng.choice((0, 4 * rng.randrange(20), rng.randrange(0x1000))),
            1 << rng.randrange(4),
        )
        match rng.randrange(5):
            case 0:
                port.uart.receive(rng.randbytes(rng.randrange(40)))
            case 1 | 2:
                port.uart.write(offset, size, rng.getrandbits(64))
            case _:
                assert 0 <= port.uart.read(offset, size) < 1 << 8 * size
        assert port.irq.is_high() == bool(port.inp(MIS))
