"""The power button, as Debian's guest listens to it."""

import os
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, copy_disk, guest_options, is_clean, pyvmm, read_from

pytestmark = pytest.mark.boot

LISTENS = "until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/event0; do sleep 0.1; done"


@pytest.mark.parametrize(
    "kind", [(), ("--realm", "--power-button", "-c", "2")], ids=["normal", "realm"]
)
def test_stop_powers_the_guest_off(debian: Image, tmp_path: Path, kind: tuple[str, ...]) -> None:
    """Its disk is unmounted, with what was written last, and the exit code is success."""
    disk, name = copy_disk(debian, tmp_path), f"power-{os.getpid()}"
    with Running("run", "--name", name, *kind, *guest_options(debian, disk)) as guest:
        guest.shell.log_in()
        assert guest.shell.run(f"echo last >/root/words; {LISTENS}").status == 0
        stopped = pyvmm("stop", name, "--timeout", "120")
        assert (stopped.code, stopped.output, stopped.errors) == (ExitCode.OK, "", "")
        assert guest.wait() == ExitCode.OK
    assert is_clean(disk)
    assert read_from(disk, "/root/words") == "last\n"


def test_a_realm_has_no_button_by_default(debian: Image, disk: Path) -> None:
    """It would change the measurement, which is predicted either way."""
    options = ("--realm", *guest_options(debian, disk))
    rims = {pyvmm("measure", *options, each).output for each in ("--no-power-button", "--agent")}
    assert len(rims) == 1
    assert pyvmm("measure", *options, "--power-button").output not in rims


def test_a_guest_without_a_listener_is_ended_at_once(debian: Image) -> None:
    """The initial RAM disk does not load the driver."""
    name = f"power-{os.getpid()}"
    options = guest_options(debian, None)
    with Running("run", "--name", name, "--power-button", *options) as guest:
        guest.shell.log_in()
        assert pyvmm("stop", name, "--timeout", "120").code == ExitCode.OK
        assert guest.wait() == ExitCode.QUIT
