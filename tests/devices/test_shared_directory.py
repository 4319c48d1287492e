"""Owners in a shared directory; the rest is tested through the servers that use it."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices.shared_directory import NOBODY, Changes, Node, SharedDirectory

USER = 12345  # neither root nor nobody
OWNER = (1000, 1000)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def user() -> Iterator[int]:
    """Let the test run as a user without privileges; return the user."""
    if os.geteuid():
        yield os.geteuid()
        return
    os.seteuid(USER)
    yield USER
    os.seteuid(0)


def refused(call: Callable[[], object]) -> int:
    """Return the errno with which an operation fails."""
    with pytest.raises(OSError, match=r".") as caught:
        call()
    assert caught.value.errno
    return caught.value.errno


def made(directory: SharedDirectory, name: bytes, mode: int = 0o644) -> Node:
    """Create a file."""
    node, fd = directory.create(directory.root, name, os.O_RDWR, mode, OWNER)
    os.close(fd)
    return node


def test_files_of_an_unprivileged_user_are_roots_in_the_guest(place: Path, user: int) -> None:
    """Those of others are nobody's; owners cannot be changed, but confirmed."""
    directory = SharedDirectory(place)
    node = made(directory, b"mine")
    assert (place / "mine").stat().st_uid == user
    assert directory.owner(directory.status(node)) == (0, 0)
    directory.change(node, Changes(uid=0, gid=0))
    assert refused(lambda: directory.change(node, Changes(uid=1000))) == errno.EPERM
    assert refused(lambda: directory.change(node, Changes(gid=1000))) == errno.EPERM
    directory.close()


def test_files_of_others_are_nobodys(user: int) -> None:
    """And cannot be changed."""
    directory = SharedDirectory(Path("/etc"))
    node = directory.lookup(directory.root, b"passwd")
    assert user
    assert directory.owner(directory.status(node))[0] == NOBODY
    assert refused(lambda: directory.open(node, os.O_RDWR)) == errno.EACCES
    assert refused(lambda: directory.change(node, Changes(mode=0o666))) == errno.EPERM
    assert refused(lambda: made(directory, b"new")) == errno.EACCES
    directory.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_passes_owners_through(place: Path) -> None:
    """A new file belongs to the guest's user, and the guest can change owners."""
    directory = SharedDirectory(place)
    node = made(directory, b"theirs")
    status = (place / "theirs").stat()
    assert (status.st_uid, status.st_gid) == directory.owner(status) == OWNER
    directory.change(node, Changes(uid=7))
    assert directory.owner(directory.status(node)) == (7, 1000)
    directory.close()


def test_a_guest_makes_no_file_that_gives_rights_away(place: Path) -> None:
    """Neither a new one nor by a change; this process's umask does not matter."""
    directory = SharedDirectory(place)
    mask = os.umask(0o777)
    node = made(directory, b"file", 0o6755)
    directory.make_directory(directory.root, b"dir", 0o3777, OWNER)
    os.umask(mask)
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "dir").stat().st_mode) == 0o1777
    directory.change(node, Changes(mode=0o4711))
    assert stat.S_IMODE((place / "file").stat().st_mode) == 0o711
    directory.close()


def test_only_a_directory_can_be_shared(place: Path) -> None:
    """A file, a link to nothing, and what does not exist cannot."""
    (place / "file").touch()
    (place / "link").symlink_to("nowhere")
    for name in ("file", "link", "missing"):
        with pytest.raises(UserError, match=f"directory {place}/{name}: .*: check the path"):
            SharedDirectory(place / name)
