"""U-Boot and EDK2 as Debian packages them, up to their prompts, and what they keep in flash."""

import re
from pathlib import Path
from typing import Final

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running
from tests.boot.grub_disk import make_grub_disk

pytestmark = pytest.mark.boot

U_BOOT: Final = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
EDK2: Final = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
U_BOOT_PROMPT: Final = re.compile(rb"\r\n=> $")
EDK2_PROMPT: Final = re.compile(rb"Shell> ")


@pytest.fixture(scope="module")
def grub_disk(debian: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a disk with GRUB and Debian."""
    return make_grub_disk(debian, tmp_path_factory.mktemp("grub"))


def start(firmware: Path, flash: Path, *options: str) -> Running:
    """Run firmware."""
    given = ("--machine", "virt", "--firmware", firmware, "--flash", flash)
    return Running("run", *given, "-m", "256M", *options)


def test_u_boot_reaches_its_prompt_and_keeps_its_environment(tmp_path: Path) -> None:
    """In the file, over a reset."""
    flash = tmp_path / "u-boot.env"
    with start(U_BOOT, flash, "--on-reboot", "restart") as guest:
        shell = guest.shell
        shell.expect(re.compile(rb"bad CRC, using default environment"))
        shell.expect(re.compile(rb"Hit any key"))
        shell.type("\n")
        shell.expect(U_BOOT_PROMPT)
        shell.type("flinfo\n")
        found = shell.expect(re.compile(rb"CFI conformant flash.*\r\n.*Intel Extended"))
        assert b"Size: 32 MB in 256 Sectors" in found[0]  # as in QEMU
        shell.expect(U_BOOT_PROMPT)
        shell.type("setenv kept in-flash; saveenv\n")
        shell.expect(re.compile(rb"Writing to Flash... done"))
        shell.expect(U_BOOT_PROMPT)
        shell.type("reset\n")
        shell.expect(re.compile(rb"resetting"))
        shell.expect(re.compile(rb"Loading Environment from Flash... OK"))
        shell.expect(re.compile(rb"Hit any key"))
        shell.type("\n")
        shell.expect(U_BOOT_PROMPT)
        shell.type("poweroff\n")
        assert guest.wait() == 0
    assert b"kept=in-flash\0" in flash.read_bytes()


def test_edk2_reaches_its_shell_and_keeps_its_variables(tmp_path: Path) -> None:
    """A variable of the shell, over a reset."""
    flash = tmp_path / "vars.fd"
    with start(EDK2, flash, "--on-reboot", "restart") as guest:
        shell = guest.shell
        shell.expect(re.compile(rb"UEFI Interactive Shell"))
        shell.expect(re.compile(rb"Press .*ESC"))
        shell.type("\x1b")
        shell.expect(EDK2_PROMPT)
        shell.type("set kept in-flash\r")
        shell.expect(EDK2_PROMPT)
        shell.type("reset\r")
        shell.expect(re.compile(rb"UEFI firmware \(version"))
        shell.expect(re.compile(rb"Press .*ESC"))
        shell.type("\x1b")
        shell.expect(EDK2_PROMPT)
        shell.type("set kept\r")
        shell.expect(re.compile(rb"kept .*= .*in-flash"))
        shell.expect(EDK2_PROMPT)
        shell.type("reset -s\r")
        assert guest.wait() == 0


@pytest.mark.parametrize(
    "firmware",
    [pytest.param(EDK2, id="edk2"), pytest.param(U_BOOT, id="u-boot", marks=pytest.mark.slow)],
)
def test_grub_on_a_disk_boots_debian(grub_disk: Path, firmware: Path) -> None:
    """The firmware finds GRUB in the EFI system partition, GRUB the kernel on Debian's root."""
    options = ("--machine", "virt", "--firmware", firmware, "-d", f"{grub_disk},snapshot")
    with Running("run", *options, "-m", "512M", "-c", "2") as guest:
        shell = guest.shell
        shell.expect(re.compile(rb"efi: EFI v2"))
        shell.log_in()
        assert shell.run("findmnt -no SOURCE /").output == "/dev/vda2"
        assert shell.run("ls -d /sys/firmware/efi /sys/firmware/devicetree").status == 0
        assert shell.run("nproc").output == "2"
        shell.type("poweroff -f\n")
        assert guest.wait() == 0
