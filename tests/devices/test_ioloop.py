"""The event loop of the backends."""

import os
import threading

from pyvmm.devices.ioloop import IoLoop


def test_ioloop_calls_back_on_its_own_thread_until_removed() -> None:
    """A reader is called while there is input; a removed one is not."""
    loop, (read_end, write_end) = IoLoop(), os.pipe()
    got: list[tuple[bytes, bool]] = []
    seen = threading.Event()

    def readable() -> None:
        got.append((os.read(read_end, 10), threading.current_thread() is threading.main_thread()))
        loop.remove_reader(read_end)
        seen.set()

    loop.start()
    loop.add_reader(read_end, readable)
    os.write(write_end, b"one")
    assert seen.wait(5)
    os.write(write_end, b"two")
    loop.stop()
    assert got == [(b"one", False)]
    os.close(read_end)
    os.close(write_end)


def test_ioloop_watches_both_directions_of_one_descriptor() -> None:
    """Reader and writer of a descriptor are added and removed independently."""
    loop, (a, b) = IoLoop(), os.pipe()
    written, called = threading.Event(), threading.Event()

    def writable() -> None:
        loop.remove_writer(b)
        written.set()

    loop.add_writer(b, writable)
    loop.remove_reader(a)
    loop.call_soon(called.set)
    loop.start()
    assert written.wait(5)
    assert called.wait(5)
    loop.stop()
    loop.remove_writer(b)  # too late, and harmless
    os.close(a)
    os.close(b)


def test_ioloop_calls_back_when_the_time_has_come(loop: IoLoop) -> None:
    """The last timer of a callback counts, and None cancels it."""
    calls: list[str] = []
    done = threading.Event()

    def never() -> None:
        calls.append("never")

    def once() -> None:
        calls.append("once")

    loop.set_timer(never, 0.01)
    loop.set_timer(never, None)
    loop.set_timer(once, 3600)
    loop.set_timer(once, 0.02)
    loop.set_timer(done.set, 0.2)
    assert done.wait(5)
    assert calls == ["once"]
    loop.set_timer(never, None)  # not asked for any more, and harmless


def test_ioloop_forgets_its_timers_when_it_stops() -> None:
    """No callback is called then, and setting a timer is harmless."""
    loop, called = IoLoop(), threading.Event()
    loop.start()
    loop.set_timer(called.set, 0.05)
    loop.stop()
    loop.set_timer(called.set, 0)
    assert not called.wait(0.1)
