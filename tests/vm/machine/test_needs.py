"""The warning about too little memory: when it appears and when not."""

from pathlib import Path

import pytest

from pyvmm.host.guest import GuestConfig, Segment
from pyvmm.vm.machine.needs import memory_warning
from pyvmm.vm.memory_map import MIB, RAM_BASE
from pyvmm.vm.network_options import parse_networks
from pyvmm.vm.options import VmOptions

NETWORK = parse_networks(["mode=user"])
DEBIAN = 38 * MIB


def config(kernel_size: int, banner: bytes = b"Linux version 7.2.12+deb14") -> GuestConfig:
    """Return a payload with a kernel of this size, in two segments as of an ELF file."""
    first = Segment(RAM_BASE, banner.rjust(kernel_size - 4096, b"\0"), "kernel")
    others = (Segment(RAM_BASE, bytes(4096), "kernel"), Segment(RAM_BASE, bytes(4096), "initrd"))
    return GuestConfig(1, RAM_BASE, 0, (first, *others), RAM_BASE)


@pytest.mark.parametrize(("is_realm", "least"), [(False, 144), (True, 224)])
def test_a_large_kernel_in_little_memory_gets_a_warning(least: int, *, is_realm: bool) -> None:
    """The warning has the guest's memory and the minimum; from the minimum on there is none."""

    def warning(mebibytes: int) -> str:
        options = VmOptions(ram_size=mebibytes * MIB, is_realm=is_realm, networks=NETWORK)
        return memory_warning(options, config(DEBIAN))

    assert warning(least) == ""
    assert warning(least - 1).startswith(f"-m {least - 1}M may be too little")
    assert f"needs {least}M in a {'realm' if is_realm else 'VM'}" in warning(64)


@pytest.mark.parametrize(("mebibytes", "is_warned"), [(64, True), (127, True), (128, False)])
def test_edk2_in_little_memory_gets_a_warning(mebibytes: int, *, is_warned: bool) -> None:
    """It assumes that much without looking."""
    options = VmOptions(ram_size=mebibytes * MIB, machine="virt", firmware=Path("QEMU_EFI.fd"))
    warning = memory_warning(options, GuestConfig(1, RAM_BASE, 0, (), RAM_BASE))
    assert ("EDK2 needs 128M" in warning) == is_warned


def test_a_small_kernel_needs_less() -> None:
    """The user's own kernel, or the built-in guest."""
    assert memory_warning(VmOptions(ram_size=8 * MIB, is_realm=True), config(8 * MIB)) == ""


@pytest.mark.parametrize(
    ("version", "ram_size", "params", "is_warned"),
    [
        (b"7.3.4-cloud-arm64", 512, None, True),
        (b"10.0", 1023, None, True),
        (b"7.3.4-cloud-arm64", 1024, None, False),
        (b"7.3.4-cloud-arm64", 512, "root=/dev/vda rw swiotlb=512", False),
        (b"7.2.13+deb14-cloud-arm64", 512, None, False),
        (b"next", 512, None, False),
    ],
)
def test_a_network_card_may_fill_the_bounce_pool_of_a_new_kernel(
    version: bytes, ram_size: int, params: str | None, *, is_warned: bool
) -> None:
    """It appears only for a realm with a card and without the user's choice of the pool's size."""
    payload = config(DEBIAN, b"Linux version " + version)
    options = VmOptions(ram_size=ram_size * MIB, is_realm=True, params=params, networks=NETWORK)
    assert ("swiotlb=512" in memory_warning(options, payload)) == is_warned
    assert memory_warning(VmOptions(ram_size=512 * MIB, networks=NETWORK), payload) == ""
    assert memory_warning(VmOptions(ram_size=512 * MIB, is_realm=True), payload) == ""
