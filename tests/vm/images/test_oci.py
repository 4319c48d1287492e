"""Container images: what they run, as whom and where; other architectures; damaged ones."""

import json
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.oci import find_owner, unpacked
from pyvmm.vm.images.rootfs import EntryPoint
from tests.vm.images.oci_layout import Member, make_archive, make_layout

PASSWD = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv/app:/bin/sh\n"
FILES = (
    Member("etc"),
    Member("etc/passwd", PASSWD, 0o644),
    Member("etc/group", b"app:x:1001:\nmore:x:2000:app\n", 0o644),
    Member("app", owner=(1000, 1001)),
    Member("app/run", b"#!/bin/sh\n", owner=(1000, 1001)),
)
CONFIG = {
    "Entrypoint": ["/app/run"],
    "Cmd": ["one", "two"],
    "Env": ["PATH=/bin", "X=1"],
    "User": "app",
    "WorkingDir": "/app",
}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Return an image for arm64."""
    return make_layout(tmp_path / "layout", FILES, CONFIG)


def test_everything_that_the_image_says_is_honoured(layout: Path, tmp_path: Path) -> None:
    """Entry point, arguments, variables, user by name with groups, directory, owners of files."""
    archive = make_archive(layout, tmp_path / "image.tar")
    for source in (str(layout), str(archive)):
        with unpacked(source) as image:
            found = image.entry_point()
            assert (found.program, found.arguments) == ("/app/run", ("one", "two"))
            assert found.environment[:1] == ("PATH=/bin",)
            assert {"X=1", "HOME=/srv/app"} <= set(found.environment)
            assert (found.directory, found.user) == ("/app", (1000, 1001, 2000))
            program = image.rootfs / "app" / "run"
            assert find_owner(program, program.lstat()) == (1000, 1001)
        assert not image.rootfs.exists()


def test_a_command_replaces_the_images_and_keeps_the_entry(layout: Path) -> None:
    """As docker does; variables of the user come first, so that they count."""
    with unpacked(str(layout)) as image:
        assert image.entry_point(words=["three"]).arguments == ("three",)
        assert image.entry_point("/bin/x", ["y"]) == EntryPoint(
            "/bin/x", ("y",), image.environment, "/app", (1000, 1001, 2000)
        )
        environment = image.entry_point(environment=["X=2"]).environment
        assert [each for each in environment if each.startswith("X=")] == ["X=2"]


def test_root_is_no_user_to_become(tmp_path: Path) -> None:
    """The init is root already."""
    make_layout(tmp_path, FILES, {"Cmd": ["/app/run"]})
    with unpacked(str(tmp_path)) as image:
        assert image.entry_point() == EntryPoint("/app/run", (), image.environment, "/")


@pytest.mark.parametrize(
    ("architectures", "reason"),
    [
        (["amd64"], "its programs are for amd64, and guests have arm64 CPUs"),
        (["amd64", "s390x"], "its programs are for other machines only, and guests have arm64"),
    ],
)
def test_an_image_for_other_machines_is_refused(
    tmp_path: Path, architectures: list[str], reason: str
) -> None:
    """With the reason and the remedy, before anything is unpacked."""
    make_layout(tmp_path, FILES, CONFIG, architectures)
    with pytest.raises(UserError, match=reason), unpacked(str(tmp_path)):
        pytest.fail("it was unpacked")


def test_the_image_for_arm64_is_chosen(tmp_path: Path) -> None:
    """From several."""
    make_layout(tmp_path, FILES, CONFIG, ["amd64", "arm64"])
    with unpacked(str(tmp_path)) as image:
        assert image.entry == ("/app/run",)


def test_what_is_no_image_is_one_line(tmp_path: Path, layout: Path) -> None:
    """Missing, damaged, incomplete, or without a program."""
    text = tmp_path / "text"
    text.write_text("no archive")
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = make_layout(tmp_path / "bare", FILES, {})
    index = json.loads((layout / "index.json").read_text())
    (layout / "blobs/sha256" / index["manifests"][0]["digest"][7:]).unlink()
    for source, complaint in (
        (str(tmp_path / "none"), "no such file or directory: give an archive, a layout, or"),
        (str(text), "not an image: file could not be opened successfully"),
        (str(empty), "skopeo: "),
        (str(layout), "skopeo: "),
        ("containers-storage:no-such-image", "skopeo: "),
    ):
        with pytest.raises(UserError, match=complaint) as error, unpacked(source):
            pytest.fail("it was unpacked")
        assert "\n" not in str(error.value)
    with unpacked(str(bare)) as image, pytest.raises(UserError, match="names no program"):
        image.entry_point()
