"""A kernel boots another one: kexec's purgatory stores into its own page."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, build_image, copy_disk, guest_options
from tests.boot.shell import Answer

pytestmark = [pytest.mark.boot, pytest.mark.slow]


@pytest.fixture(scope="module")
def image() -> Image:
    """Build a Debian image with kexec."""
    return build_image("kexec", "--with", "kexec-tools")


@pytest.fixture(params=[(1, "mmio"), (2, "mmio"), (2, "pci")], ids=str)
def guest(image: Image, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Boot it, with a copy of its kernel and initial RAM disk on a second disk."""
    archive = tmp_path / "kernel.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(image.kernel, "Image")
        tar.add(image.initrd, "initrd.img")
    num_cpus, transport = request.param
    options = ["-m", "512M", "-c", str(num_cpus), "--transport", transport, "--irqchip", "gicv3"]
    options += ["--disk", f"{archive},ro"]
    with Running("run", *guest_options(image, copy_disk(image, tmp_path)), *options) as running:
        running.shell.log_in()
        yield running


def test_kexec_boots_a_second_kernel(guest: Running) -> None:
    """Loaded by kexec_load, so that the purgatory of kexec-tools runs."""
    shell = guest.shell
    cpus = shell.run("nproc")
    boot = shell.run("cat /proc/sys/kernel/random/boot_id")
    assert shell.run("tar -xf /dev/vdb -C /tmp") == Answer(0, "")
    load = "kexec --kexec-syscall --load /tmp/Image --initrd=/tmp/initrd.img --reuse-cmdline"
    assert shell.run(f"{load} --append=second=1") == Answer(0, "")
    shell.type("kexec --exec\n")
    shell.log_in()
    assert "second=1" in shell.run("cat /proc/cmdline").output
    assert shell.run("cat /proc/sys/kernel/random/boot_id") != boot
    assert shell.run("nproc") == cpus
    shell.type("poweroff -f\n")
    assert guest.wait() == 0
