"""Debian on the machine `virt`: QEMU's addresses, a PL011 as its console."""

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options

pytestmark = pytest.mark.boot


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param((), id="normal", marks=pytest.mark.slow),  # test_firmware boots one, too
        pytest.param(("--realm", "--no-hes"), id="realm"),
    ],
)
def test_kernel_boots_on_virt(debian: Image, kind: tuple[str, ...]) -> None:
    """Its console is interrupt-driven, its clock is set, and it powers off."""
    options = [*guest_options(debian, None), "--machine", "virt", "--rng", *kind]
    with Running("run", *options) as guest:
        guest.shell.log_in()
        console = guest.shell.run("cat /sys/class/tty/console/active")
        assert console.output == "ttyAMA0"
        interrupts = guest.shell.run("grep uart-pl011 /proc/interrupts").output.split()
        assert int(interrupts[1]) > 0
        assert guest.shell.run("cat /sys/class/rtc/rtc0/name").output.startswith("rtc-pl031")
        assert guest.shell.run("head -c 8 /dev/hwrng | wc -c").output == "8"
        guest.shell.type("poweroff -f\n")
        assert guest.wait() == 0
