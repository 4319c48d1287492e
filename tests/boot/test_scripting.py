"""A Python program and its Debian realm: commands, their input, a token that verifies."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyvmm
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image

pytestmark = pytest.mark.boot


@pytest.fixture(scope="module")
def guest(debian: Image, disk: Path) -> Iterator[pyvmm.Guest]:
    """Return a realm at work."""
    with pyvmm.realm(debian.kernel, initrd=debian.initrd, disk=disk, mem="512M") as running:
        running.wait_agent()
        yield running


def test_commands_with_input_and_environment(guest: pyvmm.Guest) -> None:
    """A megabyte there and back, faster than it may wait on the way."""
    data = os.urandom(1 << 20)
    assert guest.exec(["cat"], input=data).stdout == data
    script = "echo $A; pwd; echo no >&2; exit 3"
    done = guest.exec(["sh", "-c", script], env={"A": "é"}, cwd="/etc", check=False)
    assert (done.returncode, done.text, done.stderr) == (3, "é\n/etc\n", b"no\n")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        guest.exec(["false"])
    assert failed.value.returncode == 1
    assert guest.exec(["sh", "-c", "kill -9 $$"], check=False).returncode == -9
    with pytest.raises(pyvmm.Failure, match="sleep did not end within") as late:
        guest.exec(["sleep", "100"], timeout=0.5)
    assert late.value.code == ExitCode.TIMEOUT


def test_token_verifies(guest: pyvmm.Guest) -> None:
    """With this challenge and this measurement, and with no others."""
    challenge = os.urandom(32)
    token = guest.attest(challenge)
    assert pyvmm.verify(token, challenge=challenge, rim=guest.rim).exit_code == 0
    assert pyvmm.verify(token, challenge=os.urandom(32)).exit_code != 0
    assert pyvmm.verify(token, challenge=challenge, rim=bytes(32)).exit_code != 0
    assert pyvmm.verify(b"nonsense").exit_code != 0
