"""What the system refuses is told in one line, and costs no more than it must."""

import errno
import resource
import socket
import time
from pathlib import Path
from threading import Thread

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import (
    NoThreadError,
    check_open_files,
    connect_unix,
    shortages,
    start_thread,
)
from tests.shortage import refuse_threads


def test_a_thread_that_cannot_be_started_is_the_user_s_to_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line with what to do."""
    refuse_threads(monkeypatch)
    with pytest.raises(NoThreadError, match="ulimit -u"):
        start_thread(Thread())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
def test_what_has_run_out_is_one_line(number: int) -> None:
    """Wherever it was noticed."""
    with pytest.raises(UserError) as told, shortages():
        raise OSError(number, "?")
    assert "\n" not in str(told.value)


def test_other_errors_are_what_they_were() -> None:
    """They may be defects of ours."""
    with pytest.raises(FileNotFoundError), shortages():
        raise FileNotFoundError(errno.ENOENT, "?")


def test_memory_that_has_run_out_is_one_line() -> None:
    """Python has an exception of its own for that."""
    with pytest.raises(UserError, match="memory"), shortages():
        raise MemoryError


def test_who_may_open_few_files_is_told_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    with pytest.raises(UserError, match=r"the limit is 8 open files.*ulimit -n 64"):
        check_open_files()


def test_connecting_waits_for_a_place_and_no_longer(tmp_path: Path) -> None:
    """Where as many wait already as may; a blocking connect would wait without end."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as late:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            connect_unix(first, path, 0)
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                connect_unix(late, path, 0.2)
            assert 0.2 <= time.monotonic() - start < 10
            listener.accept()[0].close()
        late.settimeout(7)
        connect_unix(late, path, 0)
        assert late.gettimeout() == 7


def test_connecting_to_nobody_fails_at_once(tmp_path: Path) -> None:
    """There is nothing to wait for."""
    with socket.socket(socket.AF_UNIX) as connection, pytest.raises(FileNotFoundError):
        connect_unix(connection, str(tmp_path / "none"), 60)
