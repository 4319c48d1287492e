"""A tar stream of a hostile guest."""

import io
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.cli.common.unpack import unpack


def archive(*members: tarfile.TarInfo, content: bytes = b"data") -> io.BytesIO:
    """Return a stream; each regular file has the content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        for member in members:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    stream.seek(0)
    return stream


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tarfile.TarInfo:
    """Return a member."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode, made.mtime = kind, link, mode, 1_000_000_000
    return made


def test_tree_keeps_modes_times_and_links(tmp_path: Path) -> None:
    """Also of a directory that nobody may write to; special bits and owners go."""
    stream = archive(
        member("src", tarfile.DIRTYPE, mode=0o500),
        member("src/file", mode=0o6751),
        member("src/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("src/hard", tarfile.LNKTYPE, "src/file"),
        member("src/fifo", tarfile.FIFOTYPE),
        member("src/disk", tarfile.BLKTYPE),
    )
    unpack(stream, "src", tmp_path / "dst")
    made = tmp_path / "dst"
    assert sorted(path.name for path in made.iterdir()) == ["file", "hard", "link"]
    assert stat.S_IMODE(made.stat().st_mode) == 0o500
    assert stat.S_IMODE((made / "file").stat().st_mode) == 0o751
    assert (made / "file").stat().st_mtime == 1_000_000_000
    assert (made / "link").readlink() == Path("/etc/passwd")
    assert (made / "hard").samefile(made / "file")


def test_existing_file_is_replaced(tmp_path: Path) -> None:
    """A link in its place is replaced too, and not followed."""
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "dst").symlink_to("kept")
    unpack(archive(member("src")), "src", tmp_path / "dst")
    assert (tmp_path / "dst").read_bytes() == b"data"
    assert (tmp_path / "kept").read_text() == "kept"


ESCAPES: list[Callable[[], io.BytesIO]] = [
    lambda: archive(member("../evil")),
    lambda: archive(member("/evil")),
    lambda: archive(member("src/../../evil")),
    lambda: archive(member("other/evil")),
    lambda: archive(member("src", tarfile.SYMTYPE, ".."), member("src/evil")),
    lambda: archive(
        member("src", tarfile.DIRTYPE), member("src/up", tarfile.SYMTYPE, ".."),
        member("src/up/evil"),
    ),
    lambda: archive(
        member("src", tarfile.DIRTYPE), member("src/up", tarfile.SYMTYPE, ".."),
        member("src/up", tarfile.DIRTYPE),
    ),
    lambda: archive(
        member("src", tarfile.DIRTYPE), member("src/evil", tarfile.LNKTYPE, "../secret")
    ),
    lambda: archive(member("src", tarfile.DIRTYPE), member("src/evil", tarfile.LNKTYPE, "/secret")),
    lambda: archive(
        member("src", tarfile.DIRTYPE), member("src/up", tarfile.SYMTYPE, ".."),
        member("src/evil", tarfile.LNKTYPE, "src/up/secret"),
    ),
    lambda: archive(member("/".join(["src"] * 600))),
    lambda: io.BytesIO(b"x" * 1024),
]  # fmt: skip


@pytest.mark.parametrize("stream", ESCAPES)
def test_nothing_is_written_elsewhere(tmp_path: Path, stream: Callable[[], io.BytesIO]) -> None:
    """Whatever names and links say; the copy ends with an error."""
    place = tmp_path / "in"
    place.mkdir()
    (tmp_path / "secret").write_text("secret")
    before = (tmp_path / "secret").stat().st_nlink
    with pytest.raises((tarfile.TarError, OSError)):
        unpack(stream(), "src", place / "dst")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "secret"]
    assert {path.name for path in place.iterdir()} <= {"dst"}
    assert (tmp_path / "secret").stat().st_nlink == before
