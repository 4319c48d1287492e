"""The console device."""

import pytest

from pyvmm.devices.virtio.console import MAX_BACKLOG, VirtioConsole
from tests.devices.driver import Driver


class Terminal:
    """A working console and its output."""

    def __init__(self) -> None:
        self.output: list[bytes] = []
        self.console = VirtioConsole(self.output.append, (80, 24))
        self.driver = Driver(self.console)


@pytest.fixture
def terminal() -> Terminal:
    """Return a console whose driver is not there yet."""
    return Terminal()


def test_console_prints_each_chain_as_one_piece(terminal: Terminal) -> None:
    """Scattered buffers arrive joined."""
    driver = terminal.driver.start()
    driver.rings[1].add([b"hel", b"lo\n"], [])
    driver.kick(1)
    assert terminal.output == [b"hello\n"]
    assert driver.rings[1].used_entries() == [(0, 0)]


def test_console_keeps_input_until_the_guest_has_buffers(terminal: Terminal) -> None:
    """Input before the driver starts, or faster than its buffers, is not lost."""
    terminal.console.receive(b"early ")
    driver = terminal.driver.start()
    terminal.console.receive(b"and late")
    ring = driver.rings[0]
    first, second = ring.add([], [8]), ring.add([], [16])
    driver.kick(0)
    assert first.answer() + second.answer() == b"early and late".ljust(24, b"\0")
    assert ring.used_entries() == [(0, 8), (1, 6)]
    assert terminal.console.backlog == 0
    ring.add([], [4])
    driver.kick(0)
    assert ring.used_entries() == []
    terminal.console.receive(b"x")
    assert ring.used_entries() == [(2, 1)]


def test_console_takes_no_more_than_it_can_keep(terminal: Terminal) -> None:
    """The memory for a guest that does not read is bounded."""
    for _ in range(3):
        terminal.console.receive(bytes(MAX_BACKLOG - 1))
    assert terminal.console.backlog == MAX_BACKLOG


def test_console_keeps_input_over_a_reset(terminal: Terminal) -> None:
    """The next driver gets the input that the last one did not take."""
    driver = terminal.driver.start()
    terminal.console.receive(b"abc")
    driver.start()
    request = driver.rings[0].add([], [3])
    driver.kick(0)
    assert request.answer() == b"abc"
