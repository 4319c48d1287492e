"""The watchdog, with Linux's driver."""

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options

pytestmark = pytest.mark.boot


@pytest.mark.parametrize("kind", [(), ("--realm",)], ids=["normal", "realm"])
def test_a_guest_that_stops_refreshing_is_ended(debian: Image, kind: tuple[str, ...]) -> None:
    """While it refreshes it runs, and an orderly end of the daemon stops the watchdog."""
    options = guest_options(debian, None)
    with Running("run", *kind, "--watchdog", *options) as guest:
        shell = guest.shell
        shell.log_in()
        about = "cd /sys/class/watchdog/watchdog0 && cat identity state timeout"
        assert shell.run(about).output.split("\n") == ["SBSA Generic Watchdog", "inactive", "10"]
        daemon = "busybox watchdog -F -T 4 -t 1 /dev/watchdog0 & sleep 6; cat state"
        assert shell.run(daemon).output.endswith("active")
        assert shell.run("busybox kill $!; wait; cat state").output.endswith("inactive")
        shell.type("busybox watchdog -F -T 4 -t 1 /dev/watchdog0 & sleep 1; busybox kill -9 $!\n")
        assert guest.wait() == ExitCode.WATCHDOG
