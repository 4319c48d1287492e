"""The measured part of an installation."""

import hashlib
from pathlib import Path

import pytest

from hes import image

PARTS = ("one", "two/single.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An installation of two parts, and files that the interpreter does not load."""
    for name, content in {
        "one/b.py": b"b",
        "one/a.so": b"\0" * 1_000_000,
        "one/deep/c.py": b"",
        "one/notes.md": b"notes",
        "one/__pycache__/b.pyc": b"cached",
        "two/single.py": b"single",
        "two/other.py": b"other",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def field(data: bytes) -> bytes:
    """Return bytes with their size in front."""
    return len(data).to_bytes(4, "little") + data


def test_image_is_the_files_by_their_paths(root: Path) -> None:
    """Only loaded files; as bytes or as their hash."""
    files = [
        (b"one/a.so", b"\0" * 1_000_000),
        (b"one/b.py", b"b"),
        (b"one/deep/c.py", b""),
        (b"two/single.py", b"single"),
    ]
    packed = b"".join(field(name) + field(content) for name, content in files)
    assert image.pack(root, PARTS) == packed
    assert image.digest(root, PARTS) == hashlib.sha256(packed).digest()


def test_file_that_moves_changes_the_image(root: Path) -> None:
    """With the same content in the same order."""
    before = image.digest(root, PARTS)
    (root / "one/b.py").rename(root / "one/bb.py")
    assert image.digest(root, PARTS) != before


@pytest.mark.parametrize("name", ["one/b.py", "one/new.py"])
def test_fingerprint_changes_with_the_image(root: Path, name: str) -> None:
    """If a file is rewritten, even with the same content, or added."""
    before = image.fingerprint(root, PARTS)
    assert image.fingerprint(root, PARTS) == before
    (root / name).unlink(missing_ok=True)
    (root / name).write_bytes(b"b")
    assert image.fingerprint(root, PARTS) != before


def test_missing_part_is_an_error(root: Path) -> None:
    """No image is made without it."""
    for function in (image.pack, image.digest, image.fingerprint):
        with pytest.raises(FileNotFoundError):
            function(root, ("one", "three"))


def test_installation_has_all_parts() -> None:
    """Of the HES, the machine, EL3 and the RMM."""
    for parts in (image.HES_FILES, image.MACHINE_FILES, image.MONITOR_FILES, image.RMM_FILES):
        assert image.digest(image.installation(), parts)
