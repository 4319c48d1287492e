"""Sockets between programs of the host and of guests, by their CIDs."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options
from tests.boot.shell import Answer
from tests.userland.build import COMPILE

pytestmark = pytest.mark.boot

SOURCE = Path(__file__).parent / "programs/vsock.c"
LISTENING = re.compile(b"listening\r?\n")
MANY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the guest's program."""
    directory = tmp_path_factory.mktemp("programs")
    subprocess.run([*COMPILE, SOURCE, "-o", directory / "vsock"], check=True)
    return directory


@pytest.fixture(scope="module")
def options(image_with_9p: Image, programs: Path) -> list[str | Path]:
    """Return the options of a guest that shares the program."""
    return [*guest_options(image_with_9p, None), "--9p", f"{programs},programs,ro"]


def log_in(guest: Running) -> None:
    """Get a shell with the program."""
    guest.shell.log_in()
    mount = "mount -t 9p -o trans=virtio,version=9p2000.L programs /mnt"
    assert guest.shell.run(f"{mount} && cd /mnt") == Answer(0, "")


def connect(path: Path, port: int) -> socket.socket:
    """Connect to a program of a guest, as a program of the host."""
    program = socket.socket(socket.AF_UNIX)
    program.settimeout(60)
    program.connect(str(path))
    program.sendall(b"CONNECT %d\n" % port)
    return program


@pytest.fixture
def guest(options: list[str | Path], tmp_path: Path) -> Iterator[Running]:
    """Return a guest with CID 42 and a socket in a directory of the test."""
    with Running("run", *options, "--vsock", f"42,uds={tmp_path}/v") as guest:
        log_in(guest)
        yield guest


def test_host_and_guest_talk(guest: Running, tmp_path: Path) -> None:
    """Both connect to each other; data comes back whole; wrong ports are refused."""
    assert guest.shell.run("./vsock cid") == Answer(0, "42")
    with connect(tmp_path / "v", 52) as program:
        assert program.recv(100) == b""  # nobody listens in the guest

    guest.shell.type("./vsock echo 52\n")
    guest.shell.expect(LISTENING)
    with connect(tmp_path / "v", 52) as program:
        assert re.fullmatch(rb"OK \d+\n", program.recv(100))
        received = b""
        for start in range(0, len(MANY), 1 << 16):
            program.sendall(MANY[start : start + (1 << 16)])
            while len(received) < start + (1 << 16):
                received += program.recv(1 << 16)
        assert received == MANY
    assert guest.shell.run("true").output == "caller 2"

    assert "connect: " in guest.shell.run("./vsock call 2 80 </dev/null").output
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/v_80")
        listener.listen()
        listener.settimeout(60)
        guest.shell.type("echo question | ./vsock call 2 80\n")
        with listener.accept()[0] as program:
            assert program.recv(100) == b"question\n"
            assert program.recv(100) == b""
            program.sendall(b"answer\n")
        guest.shell.expect(re.compile(b"answer\r?\n"))


@pytest.mark.parametrize("kind", [(), ("--realm",)])
def test_guests_talk_by_their_cids(
    guest: Running, options: list[str | Path], kind: tuple[str, ...]
) -> None:
    """A caller, which may be a realm, reaches a program of another guest, until that dies."""
    guest.shell.type("./vsock echo 7\n")
    guest.shell.expect(LISTENING)
    with Running("run", *kind, *options, "--vsock", "auto") as caller:
        log_in(caller)
        assert caller.shell.run("./vsock cid") == Answer(0, "3")
        send = "dd if=/bin/busybox bs=4k count=50 2>/dev/null | tee /sent"
        assert caller.shell.run(f"{send} | ./vsock call 42 7 >/back").status == 0
        assert caller.shell.run("cmp /sent /back && wc -c </back") == Answer(0, "204800")
        assert guest.shell.run("true").output == "caller 3"

        guest.shell.type("./vsock echo 7\n")
        guest.shell.expect(LISTENING)
        caller.shell.type("mkfifo /silent; ./vsock call 42 7 <>/silent; echo ended\n")
        guest.shell.expect(re.compile(b"caller 3\r?\n"))
        guest._process.kill()
        caller.shell.expect(re.compile(b"ended\r?\n"))
        assert caller.shell.run("./vsock call 42 7 </dev/null").status == 1
