"""A container image in a realm: measured, run as it says, and its exit status returned."""

from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import call, guest_options, pyvmm, sbin
from tests.vm.images.oci_layout import Member, make_layout

pytestmark = pytest.mark.boot

LIBRARIES = "/usr/lib/aarch64-linux-gnu"
PASSWD = b"app:x:1000:1001::/srv/app:/bin/sh\n"
WORDS = ("--", "one", "two")
#: Prints what an image may determine, and writes to a directory of its user.
PROGRAM = b"""#!/bin/sh
echo "$0 $* in $(pwd) X=$X HOME=$HOME"
while read -r line; do
    case $line in Uid:*|Gid:*|Groups:*) echo $line ;; esac
done </proc/self/status
echo written >file && read -r line <file && echo "$line"
exit 7
"""


def container(debian: Image, root: Path) -> Path:
    """Return an image with a shell of Debian's."""

    def member(path: str, source: str) -> Member:
        file = root.with_name("dumped")
        call(sbin("debugfs"), "-R", f"dump {source} {file}", debian.rootfs)
        return Member(path, file.read_bytes())

    files = [
        member("bin/sh", "/usr/bin/dash"),
        member("lib/ld-linux-aarch64.so.1", f"{LIBRARIES}/ld-linux-aarch64.so.1"),
        member("lib/libc.so.6", f"{LIBRARIES}/libc.so.6"),
        Member("etc/passwd", PASSWD, 0o644),
        Member("etc/group", b"app:x:1001:\nmore:x:2000:app\n", 0o644),
        Member("srv/app", owner=(1000, 1001)),
        Member("srv/app/run", PROGRAM, owner=(1000, 1001)),
    ]
    config = {"Entrypoint": ["run"], "Cmd": ["default"], "User": "app", "WorkingDir": "/srv/app"}
    config |= {"Env": ["PATH=/bin:/srv/app", "X=1"]}
    return make_layout(root, files, config)


def test_a_container_runs_in_a_realm_that_measures_it(debian: Image, tmp_path: Path) -> None:
    """Its user, directory, variables and arguments are the image's; the RIM is predicted."""
    root = tmp_path / "image"
    root.mkdir()
    image = container(debian, root)
    options = ("--realm", "--oci", image, *guest_options(debian, None))
    trace = tmp_path / "trace"
    ended = pyvmm("run", *options, "--sandbox", "strict", "--trace", f"rim:{trace}", *WORDS)
    lines = [line.strip() for line in ended.output.splitlines()]
    assert "/srv/app/run one two in /srv/app X=1 HOME=/srv/app" in lines, ended.output
    assert {"Uid: 1000 1000 1000 1000", "Gid: 1001 1001 1001 1001", "Groups: 2000"} <= set(lines)
    assert "written" in lines
    assert ended.code == 7
    measured = pyvmm("measure", *options, *WORDS).output.strip()
    assert len(measured) == 64
    assert measured in trace.read_text().splitlines()[-1]


def test_a_disk_of_a_container(debian: Image, tmp_path: Path) -> None:
    """`image build rootfs --from-oci`: the owners of its files are in the file system."""
    root = tmp_path / "image"
    root.mkdir()
    disk = tmp_path / "disk.img"
    built = pyvmm("image", "build", "rootfs", "--from-oci", container(debian, root), "-o", disk)
    assert (built.code, built.output, built.errors) == (0, f"{disk}\n", "")
    status = call(sbin("debugfs"), "-R", "stat /srv/app/run", disk).output
    assert "User:  1000   Group:  1001" in status
    ended = pyvmm("run", *guest_options(debian, disk))
    assert "written" in ended.output
    assert ended.code == 7
