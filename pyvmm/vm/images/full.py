"""The full profile of a Debian image: systemd, apt and tools, installed by Debian's own dpkg.

Maintainer scripts are arm64 programs.  So a new disk gets the packages, and, unpacked, the few that
dpkg itself needs; a guest of pyvmm boots from it, installs all of them, and powers off.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.apt import Source

#: What dpkg and maintainer scripts need: installed before the others.
FIRST: Final = ("?essential", "busybox-static")
PACKAGES: Final = (
    *("apt", "dbus", "libpam-systemd", "login", "passwd", "systemd-resolved", "systemd-sysv"),
    *("udev", "ca-certificates", "curl", "debian-archive-keyring", "iproute2", "iputils-ping"),
    *("kmod", "less", "nano", "netbase", "procps", "xxd"),
    *("gcc", "gdb", "libc6-dev", "linux-perf", "make", "python3", "strace"),
)
FREE_SPACE: Final = 2 << 30
INSTALL_SCRIPT: Final = "full-install.sh"

_PLACE: Final = ".pyvmm"
_SOURCES: Final = "etc/apt/sources.list.d/debian.sources"
_SUITES: Final = ("stable", "stable-updates")
_KEYRING: Final = ("Signed-By", "/usr/share/keyrings/debian-archive-keyring.gpg")
_INSTALLED: Final = "pyvmm: all packages are installed"
_PARAMETERS: Final = f"root=/dev/vda rw console=ttyS0 quiet init=/{_PLACE}/install"
_STEP: Final = re.compile(r"(Unpacking|Setting up) \S+ ")
_FILES: Final = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n::1 localhost\n",
    "etc/machine-id": "",  # each guest makes its own
    "etc/fstab": "",
    "etc/dpkg/dpkg.cfg.d/pyvmm": "path-exclude=/usr/share/doc/*\n"
    "path-exclude=/usr/share/locale/*\npath-exclude=/usr/share/man/*\n",
    "etc/systemd/network/80-dhcp.network": "[Match]\nName=e*\n\n[Network]\nDHCP=yes\n",
    # Without a card, no network would ever be online, and the unit that waits for one would fail.
    "etc/systemd/system/systemd-networkd-wait-online.service.d/card.conf": "[Unit]\n"
    "ConditionPathExistsGlob=/sys/class/net/e*\n\n"
    "[Service]\nExecStart=\nExecStart=-/usr/lib/systemd/systemd-networkd-wait-online --any"
    " --timeout=20\n",
    "etc/systemd/system/serial-getty@.service.d/root.conf": "[Service]\nExecStart=\n"
    "ExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM\n",
    # After the network, which a command may need.
    "etc/systemd/system/pyvmm-agent.service": "[Unit]\nDescription=pyvmm's guest agent\n"
    "Wants=network-online.target\nAfter=network-online.target\n"
    "ConditionPathExistsGlob=/sys/bus/virtio/drivers/virtio_console/virtio*\n\n"
    "[Service]\nExecStart=/usr/sbin/pyvmm-agent exec\n\n[Install]\nWantedBy=multi-user.target\n",
}


def prepare(
    root: Path, archive: Source, first: Iterable[Path], debs: Iterable[Path], script: str
) -> None:
    """Add what the installation needs to a tree in which the first packages are unpacked.

    The guest's apt will use the archive that the packages are from.
    """
    for directory in ("dev", "proc", "sys", "run", "root", "tmp"):
        (root / directory).mkdir(exist_ok=True)
    sources = replace(archive, options=(_KEYRING,)).entry(_SUITES, "arm64")
    for name, text in {**_FILES, _SOURCES: sources}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    early = {deb.name for deb in first}
    for deb in debs:
        place = root / _PLACE / ("first" if deb.name in early else "other")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(deb, place)
    install = root / _PLACE / "install"
    install.write_text(script)
    install.chmod(0o755)


def install(
    kernel: Path, initrd: Path, disk: Path, num_steps: int, report: Callable[[float], None]
) -> None:
    """Boot the disk, so that it installs its packages.

    Args:
        kernel: the image's.
        initrd: the image's.
        disk: of a prepared tree.
        num_steps: packages to unpack and to set up.
        report: called with the progress of the whole build in percent.

    Raises:
        UserError: the guest did not succeed; the disk is unusable.
    """
    files = ["--kernel", str(kernel), "--initrd", str(initrd), "--disk", str(disk)]
    command = [sys.executable, "-m", "pyvmm", "run", *files, "-m", "1G", "-p", _PARAMETERS]
    lines, done = [""], 0
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as guest:
        assert guest.stdout is not None  # noqa: S101  it is a pipe
        for line in guest.stdout:
            lines = [*lines[-20:], line.strip()]
            if _STEP.match(line):
                done += 1
                report(65 + 34 * min(done / num_steps, 1))
    if _INSTALLED not in lines:
        errors = [line for line in lines if "error" in line] or lines
        raise UserError(f"the guest did not install its packages ({errors[-1]}): try again")
