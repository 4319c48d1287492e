"""Disks made from trees of files, examined with the tools of e2fsprogs."""

import os
import re
import socket
import stat
from pathlib import Path, PurePosixPath

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.ext4 import Tree, make_disk, scan_tree
from tests.boot.command import call, is_clean, read_from, sbin

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a directory with all kinds of files."""
    root = tmp_path / "root"
    (root / "usr/sub dir").mkdir(parents=True)
    (root / 'usr/sub dir/a "b"').write_bytes(b"content")
    (root / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "tool").chmod(0o4711)
    (root / "link").symlink_to("usr/sub dir")
    os.mkfifo(root / "pipe")
    (root / "empty").touch()
    (root / "lost+found").mkdir()
    os.utime(root / "tool", (0, 1_700_000_000))
    os.utime(root / "usr", (0, 1_600_000_000))
    with (root / "holes").open("wb") as file:
        file.seek(10 * MIB)
        file.write(b"x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    return root


def status(disk: Path, path: str) -> dict[str, str]:
    """Return debugfs's description of a file."""
    text = call(sbin("debugfs"), "-R", f'stat "{path}"', disk).output
    found = dict(re.findall(r"(Type|Mode|User|Group|mtime|ctime|Fast link dest): +(\S+)", text))
    assert found, text
    return found


def test_disk_holds_the_tree(root: Path, tmp_path: Path) -> None:
    """Content, modes and times are kept, root owns all files, sockets are left out."""
    disk = tmp_path / "disk"
    make_disk(disk, scan_tree(root), 32 * MIB, "a-label")
    assert is_clean(disk)
    assert read_from(disk, '"/usr/sub dir/a ""b"""') == "content"
    tool = status(disk, "/tool")
    assert (tool["Type"], tool["Mode"], tool["User"], tool["Group"]) == (
        "regular",
        "04711",
        "0",
        "0",
    )
    assert int(tool["mtime"].split(":")[0], 16) == 1_700_000_000
    assert int(status(disk, "/usr")["mtime"].split(":")[0], 16) == 1_600_000_000
    assert status(disk, "/pipe")["Type"] == "FIFO"
    assert status(disk, "/link")["Fast link dest"] == '"usr/sub'
    listing = call(sbin("debugfs"), "-R", "ls -p /", disk).output
    assert "/socket/" not in listing
    assert "/lost+found/" in listing
    assert disk.stat().st_blocks * 512 < 12 * MIB


def test_same_tree_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """The order in the directory, the time of day and the user make no difference."""
    first, second = tmp_path / "first", tmp_path / "second"
    make_disk(first, scan_tree(root), 32 * MIB, "")
    tree = scan_tree(root)
    shuffled = Tree(dict(reversed(tree.entries.items())))
    make_disk(second, shuffled, 32 * MIB, "")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("shape", [(0, 0), (3000, 0), (10, 4 * MIB), (1, 100 * MIB), (400, 5000)])
def test_needed_size_is_enough(shape: tuple[int, int], tmp_path: Path) -> None:
    """Many files or large ones: a disk of that size takes them."""
    number, size = shape
    content = tmp_path / "content"
    with content.open("wb") as file:
        file.truncate(size)
        file.write(b"\1")
        for at in range(0, size, 4096):
            file.seek(at)
            file.write(b"\1")
    tree = Tree()
    for n in range(number):
        tree.add_directory(f"{n % 100}")
        tree.add_file(f"{n % 100}/{'name' * 20}{n}", content)
    make_disk(tmp_path / "disk", tree, tree.needed_size, "")
    assert is_clean(tmp_path / "disk")


def test_full_disk_is_one_line(root: Path, tmp_path: Path) -> None:
    """Debugfs exits with 0 in this case."""
    (root / "large").write_bytes(os.urandom(20 * MIB))
    with pytest.raises(UserError, match="check the size of the disk") as refused:
        make_disk(tmp_path / "disk", scan_tree(root), 16 * MIB, "")
    assert "\n" not in str(refused.value)


def test_missing_tools_are_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the package that contains them."""
    monkeypatch.setattr("pyvmm.vm.images.apt.find_tool", lambda _: None)
    with pytest.raises(UserError, match="e2fsprogs"):
        make_disk(tmp_path / "disk", scan_tree(root), 32 * MIB, "")


def test_scan_refuses_what_cannot_be_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with a line break; a file that may not be read."""
    (tmp_path / "a\nb").touch()
    with pytest.raises(UserError, match="line break"):
        scan_tree(tmp_path)
    (tmp_path / "a\nb").rename(tmp_path / "c")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    with pytest.raises(UserError, match="c: not readable"):
        scan_tree(tmp_path)
    with pytest.raises(UserError, match="none: No such file"):
        scan_tree(tmp_path / "none")


def test_newest_bounds_the_times(root: Path) -> None:
    """SOURCE_DATE_EPOCH sets the limit."""
    tree = scan_tree(root, newest=1_650_000_000)
    assert tree.entries[PurePosixPath("tool")].changed == 1_650_000_000
    assert tree.entries[PurePosixPath("usr")].changed == 1_600_000_000


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/bin/sh", "usr/bin/sh"),
        ("abs/sh", "usr/bin/sh"),
        ("up/bin", "usr/bin"),
        ("/../../usr/./bin", "usr/bin"),
        ("new/file", "new/file"),
        ("/", "."),
        ("loop/x", None),
        ("usr/bin/sh/x", None),
    ],
)
def test_resolve_stays_inside(tmp_path: Path, path: str, expected: str | None) -> None:
    """Links lead to the same place as in the guest, never out of the tree."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/sh").touch()
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "abs").symlink_to("/bin")
    (tmp_path / "usr/up").symlink_to("../../..")
    (tmp_path / "up").symlink_to("usr/up/usr")
    (tmp_path / "loop").symlink_to("loop")
    found = scan_tree(tmp_path).resolve(path)
    assert found == (None if expected is None else PurePosixPath(expected))


def test_remove_below_empties_a_directory(root: Path) -> None:
    """The directory itself stays."""
    tree = scan_tree(root)
    tree.remove_below("usr")
    assert PurePosixPath("usr") in tree.entries
    assert not [path for path in tree.entries if path.parts[0] == "usr" and len(path.parts) > 1]
    assert stat.S_ISDIR(tree.entries[PurePosixPath("usr")].mode)
