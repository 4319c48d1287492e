"""Debian on PCI: all devices behind a host bridge, their messages through an ITS."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.network_options import NetworkOptions
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.boot.command import copy_disk, is_clean, read_from
from tests.boot.inside import Inside

pytestmark = pytest.mark.boot

RNG_IRQ = "virtio3-input"  # of the device in slot 3; Linux lets a user move it

KINDS = pytest.mark.parametrize("is_realm", [False, True], ids=["normal", "realm"])


def interrupts(guest: Inside, what: str) -> list[int]:
    """Return how many interrupts of a line of /proc/interrupts each CPU has taken."""
    line = guest.shell.run(f"grep '{what}' /proc/interrupts").output
    return [int(count) for count in re.findall(r"(?<=\s)\d+(?=\s)", line)[:2]]


@pytest.fixture(params=[False, True], ids=["normal", "realm"])
def guest(debian: Image, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Inside]:
    """Return a guest with two CPUs and every kind of device that it may have."""
    second = tmp_path / "second"
    second.write_bytes(b"second" * 1000)
    options = VmOptions(
        kernel=debian.kernel,
        initrd=debian.initrd,
        disks=(DiskOptions(copy_disk(debian, tmp_path)), DiskOptions(second)),
        num_cpus=2,
        transport="pci",
        networks=(NetworkOptions(backend="slirp"),),
        has_rng=True,
        has_balloon=not request.param,
        is_realm=request.param,
    )
    with Inside(options) as guest:
        guest.shell.log_in()
        yield guest


def test_all_devices_work_with_messages_of_their_own(guest: Inside, tmp_path: Path) -> None:
    """Each queue has its LPI; one moves with its affinity and when its CPU goes offline."""
    shell = guest.shell
    lines = shell.run("grep -c ITS-PCI-MSIX /proc/interrupts").output
    assert int(lines) >= 12
    assert shell.run("grep -c 'IO-APIC\\|INTx' /proc/interrupts").output == "0"
    assert shell.run("head -c 12 /dev/vdb").output == "secondsecond"
    assert shell.run("cat /sys/class/net/eth0/address").status == 0
    number = shell.run(f"grep {RNG_IRQ} /proc/interrupts | cut -d: -f1 | tr -d ' '").output
    read = "dd if=/dev/hwrng of=/dev/null bs=64 count=40"
    for cpu in (1, 0, 1):
        assert shell.run(f"echo {cpu} >/proc/irq/{number}/smp_affinity_list").status == 0
        before = interrupts(guest, RNG_IRQ)
        assert shell.run(read).status == 0
        gained = [b - a for a, b in zip(before, interrupts(guest, RNG_IRQ), strict=True)]
        assert gained[cpu] >= 20
        assert gained[1 - cpu] <= 2
    assert shell.run("echo 0 >/sys/devices/system/cpu/cpu1/online").status == 0
    assert shell.run(read).status == 0
    assert shell.run("echo 1 >/sys/devices/system/cpu/cpu1/online").status == 0
    assert shell.run("dmesg | grep -iE 'WARNING|BUG:|its.*fail|refused'").output == ""
    assert shell.run("cp /usr/bin/bash /root; echo 3 >/proc/sys/vm/drop_caches").status == 0
    sums = shell.run("sha256sum </usr/bin/bash; sha256sum </root/bash").output.split("\n")
    assert sums[0] == sums[1]
    shell.type("poweroff -f\n")
    assert guest.wait() is ExitCode.OK
    assert guest.platform.leak_check() == []
    assert is_clean(tmp_path / "rootfs.img")


@KINDS
def test_pins_serve_without_an_its(debian: Image, tmp_path: Path, *, is_realm: bool) -> None:
    """With --irqchip gicv3, a device has one level-sensitive interrupt."""
    options = VmOptions(
        kernel=debian.kernel,
        initrd=debian.initrd,
        disks=(DiskOptions(copy_disk(debian, tmp_path)),),
        forces_pci=True,
        irqchip="gicv3",
        is_realm=is_realm,
    )
    with Inside(options) as guest:
        guest.shell.log_in()
        assert "Level     virtio0" in guest.shell.run("grep 'GICv3  *96' /proc/interrupts").output
        assert guest.shell.run("echo pins >/root/pins").status == 0
        guest.shell.type("poweroff -f\n")
        assert guest.wait() is ExitCode.OK
    assert read_from(tmp_path / "rootfs.img", "/root/pins") == "pins\n"
