"""Directories of the host in a guest: as its root file system, and mounted."""

import fcntl
import hashlib
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, call, guest_options, pyvmm, sbin

pytestmark = pytest.mark.boot

MOUNTS = {
    "9p": "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 src /mnt",
    "virtiofs": "mount -t virtiofs src /mnt",
}


@pytest.fixture(scope="module")
def tree(debian: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with Debian's files."""
    tree = tmp_path_factory.mktemp("rootfs")
    assert call(sbin("debugfs"), "-R", f"rdump / {tree}", debian.rootfs).code == 0
    return tree


def test_a_realm_boots_from_a_directory(debian: Image, tree: Path) -> None:
    """With the kernel and the directory as the only options; what it writes is in the directory."""
    script = "mount | head -n 1\ncat /etc/hostname >/root/copied; sync\npoweroff -f\n"
    ended = pyvmm("run", "--realm", "-k", debian.kernel, "--rootfs", tree, typed=script)
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    assert "RME: Using RSI version 1.0" in ended.output
    assert "\r\nrootfs on / type virtiofs (rw," in ended.output
    assert (tree / "root/copied").read_text() == "debian\n"
    (tree / "root/copied").unlink()


def test_a_realm_boots_through_9p(image_with_9p: Image, tree: Path) -> None:
    """With a kernel that has it."""
    script = "mount | head -n 1\ncat /etc/hostname >/root/copied; sync\npoweroff -f\n"
    ended = pyvmm("run", "--realm", "-k", image_with_9p.kernel, "--rootfs", tree, typed=script)
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    assert "\r\n/dev/root on / type 9p (rw," in ended.output
    assert (tree / "root/copied").read_text() == "debian\n"


def test_a_read_only_root_stays_as_it_is(image_with_9p: Image, tree: Path) -> None:
    """The guest boots from it and cannot change it."""
    script = "touch /root/new\ncat /etc/hostname\npoweroff -f\n"
    ended = pyvmm("run", "-k", image_with_9p.kernel, "--rootfs", f"{tree},ro", typed=script)
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    assert "cannot touch '/root/new': Read-only file system" in ended.output
    assert not (tree / "root/new").exists()


@pytest.mark.parametrize(
    ("protocol", "complaint"),
    [
        ("virtiofs", "No root file system on rootfs: it has no /sbin/init."),
        ("9p", "No root file system on /dev/root: it cannot be mounted."),
    ],
)
def test_initrd_says_what_is_missing(
    debian: Image, tmp_path: Path, protocol: str, complaint: str
) -> None:
    """Instead of a kernel panic: an init, or a file system in the kernel."""
    with Running("run", "-k", debian.kernel, "--rootfs", f"{tmp_path},{protocol}") as guest:
        guest.shell.log_in()
        assert complaint in guest.shell.log.decode().replace("\r\n", "\n")


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory to mount, with a secret beside it."""
    place = tmp_path_factory.mktemp("place")
    (place / "secret").write_text("not shared")
    shared = place / "shared"
    shared.mkdir()
    (shared / "out").symlink_to("../secret")
    return shared


@pytest.mark.parametrize("protocol", MOUNTS)
def test_a_mount_is_a_file_system(
    image_with_9p: Image, shared: Path, seed: int, protocol: str
) -> None:
    """Read, write, rename, links, locks, modes; no extended attributes; nothing outside."""
    content = hashlib.shake_128(str(seed).encode()).digest(3 << 20)
    (shared / "file").write_bytes(content)
    options = [
        *guest_options(image_with_9p, image_with_9p.rootfs),
        f"--{protocol}",
        f"{shared},src",
    ]
    options[options.index(image_with_9p.rootfs)] = f"{image_with_9p.rootfs},ro"
    with Running("run", *options) as guest:
        shell = guest.shell
        shell.log_in()
        assert shell.run(f"{MOUNTS[protocol]} && cd /mnt").status == 0
        digest = shell.run("sha256sum <file").output.split()[0]
        assert digest == hashlib.sha256(content).hexdigest()
        assert shell.run("cp file copy && mkdir -p a/b && mv copy a/b/moved").status == 0
        assert (shared / "a/b/moved").read_bytes() == content
        assert shell.run("ln -s a/b link && ln file hard").status == 0
        assert shell.run("sha256sum <link/moved").output.split()[0] == digest
        assert (shared / "hard").stat().st_nlink == 2
        assert shell.run("echo more >>hard; tail -c 5 file").output == "more"
        assert shell.run("chmod 4750 a/b/moved; stat -c %a a/b/moved").output == "750"
        assert shell.run("cat out").status == 1
        assert "Operation not permitted" in shell.run("mknod dev c 1 3").output
        assert shell.run("mkfifo pipe && (echo through >pipe & cat pipe)").output == "through"
        assert shell.run("flock a/b/moved echo locked").output == "locked"
        (shared / "seen").write_text("by the guest")
        assert shell.run("cat seen").output == "by the guest"
        shell.run("touch held; exec 5<held 6>held; rm held; echo kept >&6")
        assert shell.run("read -r word <&5; echo $word; exec 5<&- 6<&-").output == "kept"
        assert shell.run("rm -r a link hard; ls --color=never").output.split() == [
            "file",
            "out",
            "pipe",
            "seen",
        ]
        with (shared / "seen").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the guest holds none on the host
