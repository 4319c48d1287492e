"""Files that a user names: no verb hangs on one, or uses too much memory for it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.token.generations import Generation
from tests.cli.inside import verb
from tests.token.draft import Draft
from tests.token.vectors.make import HERE

PATIENCE = 10  # seconds

#: FILE stands for the name.
PAYLOAD = [
    "run -k FILE",
    "run FILE",
    "run -i FILE",
    "run -d FILE",
    "run -d FILE,ro",
    "run --dtb FILE",
    "run --realm --metadata FILE",
    "measure --realm -k FILE",
    "endorse --realm -i FILE",
    "image build rootfs --from-dir store --initrd FILE",
]
INPUTS = [
    "run --config FILE",
    "measure --config FILE",
    "config show --config FILE",
    "measure --diff FILE FILE",
    "verify FILE",
    "verify token --cpak FILE",
    "verify token --reference FILE",
    "verify token --json --ear-key FILE",
    "token show FILE",
    "token extract rak FILE",
    "token compile FILE --cpak cpak.key --rak cpak.key",
    "token compile claims --cpak FILE --rak cpak.key",
    "hes provision FILE",
]
OUTPUTS = [
    "measure --realm --dump-dtb FILE",
    "run --trace rmi:FILE",
    "token extract rak token -o FILE",
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a directory with a file of each kind; end blocked readers and writers."""

    def give_up(*_: object) -> None:
        raise TimeoutError

    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    (tmp_path / "token").write_bytes(Draft.good(Generation.G1).encode())
    (tmp_path / "claims").write_text("{}")
    (tmp_path / "cpak.key").write_bytes((HERE / "cpak.pem").read_bytes())
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    old = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def refused(line: str, *words: str) -> None:
    """Check that a command line is rejected in one line that contains one of these words."""
    ended = verb(*line.split())
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1), ended.errors
    assert any(word in ended.errors for word in words), ended.errors


@pytest.mark.parametrize("line", [*PAYLOAD, *INPUTS])
def test_what_is_no_file_is_one_line(line: str) -> None:
    """The line says what it is instead."""
    refused(line.replace("FILE", "fifo"), "fifo is a pipe")
    refused(line.replace("FILE", "/dev/zero"), "/dev/zero is a character device")


@pytest.mark.parametrize("line", [*PAYLOAD, *INPUTS])
def test_what_is_too_large_is_not_read(line: str) -> None:
    """Except a disk, which has no limit; a token that is too large is malformed."""
    if " -d " not in line and not line.startswith(("verify FILE", "token")):
        refused(line.replace("FILE", "huge"), "huge is larger than ")


@pytest.mark.parametrize("name", ["x.pem", "x.der", "x.jwk", "x.json"])
def test_trust_store_may_hold_anything(place: Path, name: str) -> None:
    """A pipe or a device in it is reported."""
    os.mkfifo(place / "store" / name)
    refused("verify token --trust-store store", f"store/{name} is a pipe")
    (place / "store" / name).unlink()
    (place / "store" / name).symlink_to("/dev/zero")
    refused("verify token --trust-store store", f"store/{name} is a character device")


@pytest.mark.parametrize("line", OUTPUTS)
def test_pipe_that_nobody_reads_is_one_line(line: str) -> None:
    """The verb does not wait for a reader."""
    refused(line.replace("FILE", "fifo"), "fifo: No such device or address")


def test_device_is_not_replaced_by_an_image(place: Path) -> None:
    """Root would be able to."""
    refused("image build rootfs --from-dir store -o fifo", "fifo is not a regular file")
    assert (place / "fifo").is_fifo()


@pytest.mark.parametrize("line", ["measure NAME", "image build rootfs --from-dir NAME"])
def test_name_that_is_too_long_is_one_line(line: str) -> None:
    """The system call fails."""
    refused(line.replace("NAME", "x" * 5000), "neither an instance", "File name too long")
