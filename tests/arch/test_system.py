"""Exhausted resources give one line, and waiting is bounded."""

import errno
import fcntl
import os
import resource
import select
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
    open_file_budget,
    shortages,
    start_thread,
    wait_for,
)
from tests.shortage import refuse_threads


def test_a_thread_that_cannot_be_started_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line with what to do."""
    refuse_threads(monkeypatch)
    with pytest.raises(NoThreadError, match="ulimit -u"):
        start_thread(Thread())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
def test_an_exhausted_resource_is_one_line(number: int) -> None:
    """Wherever the error occurs."""
    with pytest.raises(UserError) as told, shortages():
        raise OSError(number, "?")
    assert "\n" not in str(told.value)


def test_other_errors_are_not_converted() -> None:
    """They may be bugs of ours."""
    with pytest.raises(FileNotFoundError), shortages():
        raise FileNotFoundError(errno.ENOENT, "?")


def test_exhausted_memory_is_one_line() -> None:
    """Python has a separate exception for it."""
    with pytest.raises(UserError, match="memory"), shortages():
        raise MemoryError


def test_a_low_limit_of_open_files_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is created."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    with pytest.raises(UserError, match=r"the limit is 8 open files.*ulimit -n 64"):
        check_open_files()


@pytest.mark.parametrize(
    ("limits", "raised", "budget"),
    [
        ((1024, 1 << 20), 8192, 4096),
        ((1024, resource.RLIM_INFINITY), 8192, 4096),
        ((1024, 2048), 2048, 1024),
        ((64, 64), None, 32),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 4096),
        ((10000, 10000), None, 5000),
    ],
)
def test_limit_of_open_files_is_raised_for_a_guest_that_shares_directories(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: int | None, budget: int
) -> None:
    """As far as it may be; half of it remains for everything else."""
    new: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    monkeypatch.setattr("resource.setrlimit", lambda _, both: new.append(both))
    assert open_file_budget() == budget
    assert new == ([] if raised is None else [(raised, limits[1])])


def test_connecting_waits_for_a_full_backlog(tmp_path: Path) -> None:
    """Up to the timeout; a blocking connect would wait forever."""
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
    """Nothing listens there."""
    with socket.socket(socket.AF_UNIX) as connection, pytest.raises(FileNotFoundError):
        connect_unix(connection, str(tmp_path / "none"), 60)


def test_waiting_takes_any_descriptor() -> None:
    """Also one that select.select refuses."""
    reader, writer = os.pipe()
    high = fcntl.fcntl(reader, fcntl.F_DUPFD, 1500)
    try:
        assert not wait_for(high, select.POLLIN, 0)
        os.write(writer, b"x")
        assert wait_for(high, select.POLLIN)
    finally:
        for fd in (reader, writer, high):
            os.close(fd)
