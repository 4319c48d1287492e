"""Shows what the threads do when something takes long.

faulthandler's timer would too, but it reads the stacks of threads that run, and crashes on them.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from threading import enumerate as threads
from typing import Final

NAME: Final = "watchdog"


@contextmanager
def watched(what: str, seconds: float, fd: int) -> Iterator[None]:
    """Write the stacks of all threads to a file if it is not over in time."""
    timer = Timer(seconds, _show, (f"{what}: {seconds} seconds\n", fd))
    timer.name = NAME
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _show(headline: str, fd: int) -> None:
    names = {thread.ident: thread.name for thread in threads()}
    lines = [headline]
    for ident, frame in sys._current_frames().items():
        lines += [f"--- {names.get(ident, ident)}\n", *traceback.format_stack(frame)]
    os.write(fd, "".join(lines).encode(errors="replace"))
