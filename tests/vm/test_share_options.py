"""The shared directories of a guest."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.agent.volumes import mount_commands
from pyvmm.vm.share_options import (
    Protocol,
    ShareOptions,
    check_directories,
    parse_9p,
    parse_rootfs,
    parse_virtiofs,
    parse_volumes,
)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("dir,src", ShareOptions(Path("dir"), "src")),
        ("/a,b,src,ro", ShareOptions(Path("/a,b"), "src", is_read_only=True)),
        ("dir,src,rw", ShareOptions(Path("dir"), "src")),
        ("dir,ro,rw", ShareOptions(Path("dir"), "ro")),
    ],
)
def test_a_shared_directory_has_a_tag(text: str, share: ShareOptions) -> None:
    """The last word but ro or rw, so that the directory's name may contain commas."""
    assert parse_9p([text]) == (share,)


@pytest.mark.parametrize(
    "text", ["dir", "", ",tag", "dir,", "dir,ro", "d,a b", "d,/dev/root", "d," + "t" * 37]
)
def test_a_wrong_tag_is_refused(text: str) -> None:
    """Missing, with a space, too long, or that of the root file system."""
    with pytest.raises(UserError, match=f"--9p {text}: "):
        parse_9p([text])


def test_tags_differ() -> None:
    """The guest could not tell the directories apart."""
    with pytest.raises(UserError, match="2 directories have the tag src: give each its own"):
        parse_9p(["a,src", "b,src"])


def test_a_root_directory_may_be_read_only() -> None:
    """Its tag is kvmtool's, or the one for virtio-fs; a name may contain commas."""
    root = ShareOptions(Path("dir"), "/dev/root", is_automatic=True)
    assert parse_rootfs("dir") == root
    assert parse_rootfs("dir,ro") == replace(root, is_read_only=True)
    assert parse_rootfs("a,b") == replace(root, path=Path("a,b"))
    assert parse_rootfs("dir,9p") == ShareOptions(Path("dir"))
    virtiofs = ShareOptions(Path("dir"), "rootfs", True, Protocol.VIRTIOFS)
    assert parse_rootfs("dir,ro,virtiofs") == virtiofs
    assert virtiofs.root_parameters == "root=rootfs ro rootfstype=virtiofs"


def test_both_protocols_have_directories() -> None:
    """With the same syntax, and names that tell them apart."""
    (share,) = parse_virtiofs(["dir,src,ro"])
    assert share == ShareOptions(Path("dir"), "src", is_read_only=True, protocol=Protocol.VIRTIOFS)
    with pytest.raises(UserError, match="--virtiofs dir: give DIR,TAG"):
        parse_virtiofs(["dir"])


def test_what_is_no_directory_cannot_be_shared(tmp_path: Path) -> None:
    """It is reported before anything is started."""
    check_directories([ShareOptions(tmp_path)])
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(UserError, match=f"directory {tmp_path}/{name}: .*: check the path"):
            check_directories([ShareOptions(tmp_path / name)])


def test_volumes_are_read_as_docker_takes_them() -> None:
    """Each is mounted by a tag of its own; a directory may contain colons."""
    volumes = parse_volumes((".:/src", "/a:b:/c/../d:ro", "x:/rw:rw"))
    assert [(str(each.path), each.mount_point, each.is_read_only) for each in volumes] == [
        (".", "/src", False), ("/a:b", "/d", True), ("x", "/rw", False),
    ]  # fmt: skip
    assert len({each.tag for each in volumes}) == 3
    assert not any(each.is_root for each in volumes)
    assert [*mount_commands(volumes[1:2])] == [
        ["sh", "-c", 'mkdir -p "$0" && exec mount "$@" "$0"', "/d",
         "-t", "9p", "-o", "trans=virtio,version=9p2000.L,msize=512000,ro", volumes[1].tag],
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["src", "src:", ":/src", "src:dst", "src:/dst:rx", "::", "a:/\0"])
def test_invalid_volume_is_refused(text: str) -> None:
    """The line shows the form."""
    with pytest.raises(UserError, match=re.escape("give DIR:PATH or DIR:PATH:ro")):
        parse_volumes((text,))


def test_two_volumes_at_one_path_are_refused() -> None:
    """One would hide the other."""
    with pytest.raises(UserError, match="2 directories at /src"):
        parse_volumes(("a:/src", "b:/src/"))
