"""The console log: what it keeps, and what a reader gets."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.vm.control.console import ConsoleLog

SIZE = 16


def stay() -> bool:
    """Never leave."""
    return False


@given(st.lists(st.binary(max_size=3 * SIZE)), st.integers(0, 8 * SIZE))
def test_a_reader_gets_what_is_kept_after_its_position(pieces: list[bytes], position: int) -> None:
    """Segmentation makes no difference; the position shows missing output."""
    log = ConsoleLog(SIZE)
    for piece in pieces:
        log.write(piece)
    log.close()
    said = b"".join(pieces)
    start, data = log.read(position, stay)
    assert start == min(max(position, len(said) - SIZE), len(said))
    assert data == said[start:]
    assert log.bounds == (max(len(said) - SIZE, 0), len(said))
    assert log.tail() == said[-SIZE:]


def test_a_reader_waits_for_the_next_word() -> None:
    """A reader waits only until the next output."""
    log, heard = ConsoleLog(), []
    reader = threading.Thread(target=lambda: heard.append(log.read(2, stay)))
    log.write(b"ab")
    reader.start()
    reader.join(0.02)
    assert reader.is_alive()
    log.write(b"c")
    reader.join(5)
    assert heard == [(2, b"c")]


def test_a_reader_that_leaves_is_let_go() -> None:
    """It gets no data."""
    log, heard, is_leaving = ConsoleLog(), [], threading.Event()
    reader = threading.Thread(target=lambda: heard.append(log.read(0, is_leaving.is_set)))
    reader.start()
    is_leaving.set()
    log.wake()
    reader.join(5)
    assert heard == [(0, b"")]
