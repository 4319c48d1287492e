"""The terminal, on a pseudo-terminal and on pipes."""

import os
import pty
import re
import signal
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.vm.control.terminal import EndSignals, Escapes, Terminal
from tests.boot.shell import Shell
from tests.waiting import wait_until


class RecordingConsole:
    """A console that records its input; the test sets ``backlog``."""

    def __init__(self) -> None:
        self.data = b""
        self.backlog = 0

    def receive(self, data: bytes) -> None:
        """Record the input."""
        self.data += data


def test_ctrl_a_x_quits_and_hides_the_rest() -> None:
    """Later input does not reach the guest; Ctrl-A before other keys does."""
    escapes = Escapes()
    assert escapes.filter(b"a\x01\x01b\x01cd\x01") == b"a\x01b\x01cd"
    assert not escapes.is_quit
    assert escapes.filter(b"xe") == b""
    assert escapes.is_quit


@given(st.binary(), st.integers(0, 20))
def test_escapes_do_not_depend_on_how_input_is_cut(data: bytes, cut: int) -> None:
    """Keys arrive one by one or pasted together."""
    whole, parts = Escapes(), Escapes()
    first = parts.filter(data[:cut])
    expected = whole.filter(data)
    assert expected == (first if parts.is_quit else first + parts.filter(data[cut:]))


def test_piped_input_is_fed_verbatim_and_its_end_just_ends_it(tmp_path: Path) -> None:
    """A regular file is plain input, and so is Ctrl-A in it."""
    path = tmp_path / "input"
    path.write_bytes(b"\x01x" * 5000)
    console = RecordingConsole()
    with path.open("rb") as file, Terminal(file.fileno(), 1) as terminal:
        terminal.start(console, lambda: pytest.fail("quit"))
        wait_until(lambda: len(console.data) == 10_000)
    assert console.data == path.read_bytes()


def test_feeding_waits_for_a_guest_that_is_behind() -> None:
    """Input of any length costs no memory; stopping does not wait for the guest."""
    reader, writer = os.pipe()
    os.write(writer, b"late")
    console = RecordingConsole()
    console.backlog = 1 << 20
    with Terminal(reader, 1) as terminal:
        terminal.start(console, lambda: None)
        time.sleep(0.02)
        assert console.data == b""
        console.backlog = 0
        wait_until(lambda: console.data == b"late")
        console.backlog = 1 << 20
    os.close(reader)
    os.close(writer)


def test_input_waits_for_a_guest_that_is_not_ready() -> None:
    """Nothing is read before that; stopping does not wait for the guest."""
    reader, writer = os.pipe()
    os.write(writer, b"early")
    console, is_ready = RecordingConsole(), threading.Event()
    with Terminal(reader, 1) as terminal:
        terminal.start(console, lambda: None, is_ready.is_set)
        time.sleep(0.02)
        assert console.data == b""
        is_ready.set()
        wait_until(lambda: console.data == b"early")
    with Terminal(reader, 1) as terminal:
        terminal.start(console, lambda: None, lambda: False)
    os.close(reader)
    os.close(writer)


@pytest.fixture
def pseudo_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Open a terminal of which we seem to be the foreground."""
    user, ours = pty.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    yield user, ours
    os.close(user)
    os.close(ours)


def test_terminal_is_raw_inside_and_restored_after(pseudo_terminal: tuple[int, int]) -> None:
    """It is restored even after an exception."""
    _, ours = pseudo_terminal
    before = termios.tcgetattr(ours)

    def fail_inside() -> None:
        with Terminal(ours, ours) as terminal:
            terminal.start(RecordingConsole(), lambda: None)
            assert not termios.tcgetattr(ours)[3] & termios.ICANON
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert termios.tcgetattr(ours) == before


def test_ctrl_a_x_typed_at_the_terminal_quits(pseudo_terminal: tuple[int, int]) -> None:
    """Earlier keys reach the guest; a guest that hangs or is silent can be left too."""
    user, ours = pseudo_terminal
    console, has_quit = RecordingConsole(), threading.Event()
    console.backlog = 1 << 20
    with Terminal(ours, ours) as terminal:
        terminal.start(console, has_quit.set, lambda: False)
        os.write(user, b"\x03a\x01x")
        assert has_quit.wait(5)
    assert console.data == b"\x03a"


@pytest.mark.parametrize(
    ("said", "shown"), [(b"login: ", b"login: \r\n"), (b"bye\r\n", b"bye\r\n"), (b"", b"")]
)
def test_who_leaves_finds_the_cursor_at_the_start_of_a_line(
    pseudo_terminal: tuple[int, int], said: bytes, shown: bytes
) -> None:
    """This holds in the middle of the guest's output too."""
    user, ours = pseudo_terminal
    with Terminal(ours, ours) as terminal:
        terminal.start(RecordingConsole(), lambda: None)
        terminal.write(said)
    os.write(ours, b"$")
    shell = Shell(user, user)
    shell.expect(re.compile(rb"\$"))
    assert shell.log == shown + b"$"


def test_output_waits_for_its_reader_until_there_is_no_time() -> None:
    """A full pipe blocks the writer; after `hurry`, output that does not fit is dropped."""
    reader, writer = os.pipe()
    in_reader, in_writer = os.pipe()
    with Terminal(in_reader, writer) as terminal:
        blocked = threading.Thread(target=terminal.write, args=(bytes(1 << 20),))
        blocked.start()
        blocked.join(0.02)
        assert blocked.is_alive()
        terminal.hurry()
        blocked.join(5)
        assert not blocked.is_alive()
        assert os.read(reader, 1 << 20) == bytes(1 << 16)
        terminal.write(b"last")
        assert os.read(reader, 1 << 20) == b"last"
    for fd in (reader, writer, in_reader, in_writer):
        os.close(fd)


def test_resize_is_passed_on(pseudo_terminal: tuple[int, int]) -> None:
    """SIGWINCH passes the new size to the console; its handler is restored afterwards."""
    _, ours = pseudo_terminal
    before = signal.getsignal(signal.SIGWINCH)
    sizes = []
    with Terminal(ours, ours) as terminal:
        terminal.on_resize(lambda columns, rows: sizes.append((columns, rows)))
        termios.tcsetwinsize(ours, (50, 132))
        signal.raise_signal(signal.SIGWINCH)
    assert sizes == [(132, 50)]
    assert signal.getsignal(signal.SIGWINCH) == before


def test_output_that_nobody_reads_is_dropped() -> None:
    """A closed pipe (pyvmm run | head) does not end the guest."""
    reader, writer = os.pipe()
    os.close(reader)
    with Terminal(0, writer) as terminal:
        terminal.write(b"x")
        terminal.write(b"y")
    os.close(writer)


@pytest.mark.parametrize(
    ("is_raw", "expected"), [(False, b"pyvmm: words\n"), (True, b"\r\npyvmm: words\r\n")]
)
def test_words_to_the_user_are_a_line_of_their_own(
    monkeypatch: pytest.MonkeyPatch, *, is_raw: bool, expected: bytes
) -> None:
    """This holds on a raw terminal in the middle of a line too; without stderr they are lost."""
    monkeypatch.setattr(Terminal, "is_interactive", False)
    reader, writer = os.pipe()
    with Terminal(0, 1, writer) as terminal:
        monkeypatch.setattr(terminal, "_is_raw", is_raw)
        terminal.tell("words")
        monkeypatch.undo()
        assert os.read(reader, 100) == expected
        os.close(reader)
        terminal.tell("nobody listens")
    os.close(writer)


def test_a_signal_asks_to_quit_instead_of_ending_us() -> None:
    """The terminal is restored first; afterwards the old signal handlers are back."""
    before = signal.getsignal(signal.SIGTERM)
    quits = []
    with EndSignals(lambda: quits.append(True)):
        signal.raise_signal(signal.SIGTERM)
    assert quits == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_wakes_who_was_about_to_sleep() -> None:
    """A signal between the check of the state and the wait is not lost."""
    changed, has_quit = threading.Condition(), []

    def quit_() -> None:
        with changed:
            has_quit.append(True)
            changed.notify_all()

    def look() -> bool:
        seen = bool(has_quit)
        if not seen:
            signal.raise_signal(signal.SIGTERM)
        return seen

    with EndSignals(quit_), changed:
        assert changed.wait_for(look, 5)
