"""U-Boot and EDK2 as Debian packages them, up to their prompts, and what they keep in flash."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.boot.command import Running

pytestmark = pytest.mark.boot

U_BOOT: Final = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
EDK2: Final = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
U_BOOT_PROMPT: Final = re.compile(rb"\r\n=> $")
EDK2_PROMPT: Final = re.compile(rb"Shell> ")


def start(firmware: Path, flash: Path, *options: str) -> Running:
    """Run firmware."""
    given = ("--machine", "virt", "--firmware", firmware, "--flash", flash)
    return Running("run", *given, "-m", "256M", *options)


def test_u_boot_reaches_its_prompt_and_keeps_its_environment(tmp_path: Path) -> None:
    """Over a reset within the same guest, and in a new one."""
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
    with start(U_BOOT, flash) as guest:
        shell = guest.shell
        shell.expect(re.compile(rb"Loading Environment from Flash... OK"))
        shell.expect(re.compile(rb"Hit any key"))
        shell.type("\n")
        shell.expect(U_BOOT_PROMPT)
        shell.type("printenv kept\n")
        shell.expect(re.compile(rb"kept=in-flash"))
        shell.expect(U_BOOT_PROMPT)
        shell.type("reset\n")
        assert guest.wait() == 0


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
