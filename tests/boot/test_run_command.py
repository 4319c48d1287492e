"""pyvmm run IMAGE -- COMMAND: one command in a guest of its own."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from pyvmm.vm.machine.kernel_tree import num_host_cpus
from tests.boot.command import PYVMM, pyvmm
from tests.boot.shell import PATIENCE
from tests.waiting import wait_until

pytestmark = pytest.mark.boot
ROOT = Path(__file__).parents[2]
SCRIPT = """
pwd; cat file; echo "$WORD"; echo complaint >&2; cat
echo new >made
while :; do echo answer | nc -l -p 80 >answered; done &
until [ -e end ]; do sleep 0.1; done
exit 7
"""


@pytest.fixture
def cache(debian: Image, tmp_path: Path) -> Iterator[None]:
    """Give the image the name debian."""
    images = tmp_path / "cache/pyvmm/images"
    images.mkdir(parents=True)
    images.joinpath("debian").symlink_to(debian.directory.absolute())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory to share."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "file").write_text("content\n")
    return directory


@pytest.fixture
def tree(debian: Image, tmp_path: Path) -> Iterator[Path]:
    """Change to a kernel's source tree, in which a kernel was built."""
    tree = tmp_path / "linux"
    (tree / "arch/arm64/boot").mkdir(parents=True)
    for name in ("Kconfig", "Kbuild", "arch/arm64/Kconfig"):
        (tree / name).touch()
    (tree / "arch/arm64/boot/Image").symlink_to(debian.kernel.absolute())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)
        yield tree


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.usefixtures("cache")
def test_vm_runs_a_command_on_a_shared_directory(source: Path, debian: Image) -> None:
    """With its input, output, exit status and a forwarded port; the image does not change."""
    port, before = free_port(), debian.rootfs.stat().st_mtime_ns
    words = ("run", "--rm", "debian", "-v", f"{source}:/src", "-p", f"{port}:80", "-e", "WORD=set")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [PYVMM, *words, "--", "sh", "-c", SCRIPT], stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"typed\n")
        process.stdin.close()
        process.stdin = None
        wait_until(lambda: received(port) == b"answer\n", PATIENCE)
        (source / "end").touch()
        out, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (7, b"complaint\n")
    assert out == b"/src\ncontent\nset\ntyped\n"
    assert (source / "made").read_text() == "new\n"
    assert debian.rootfs.stat().st_mtime_ns == before


def received(port: int) -> bytes:
    """Return what a server sends; nothing if there is none yet."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 3) as connection:
        connection.sendall(b"question")  # passt may wait for that
        return connection.recv(64)
    return b""


@pytest.mark.usefixtures("cache", "tree")
def test_realm_runs_a_command_on_a_shared_directory(source: Path, debian: Image) -> None:
    """In a kernel's tree, with the kernel built there; without a network.

    What is read-only stays so; a signal of the command is its status.
    """
    script = "cat file; ls /sys/class/net; nproc; touch made || kill -TERM $$"
    words = ("run", "--realm", "-i", ROOT / debian.initrd, "-n", "mode=none")
    ended = pyvmm(*words, "-v", f"{source}:/src:ro", "--", "sh", "-c", script)
    assert (ended.code, ended.output) == (143, f"content\nlo\n{num_host_cpus()}\n")
    assert "Read-only file system" in ended.errors
    assert [each.name for each in source.iterdir()] == ["file"]


@pytest.mark.usefixtures("cache")
def test_volume_that_cannot_be_mounted_is_an_error(source: Path) -> None:
    """The command would run elsewhere; it does not run at all."""
    ended = pyvmm("run", "debian", "-v", f"{source}:/etc/passwd", "--", "echo", "ran")
    assert (ended.code, ended.output) == (2, "")
    assert "the guest is not set up: sh -c" in ended.errors
    assert "/etc/passwd" in ended.errors
