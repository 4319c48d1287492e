"""What a shared root file system gets from pyvmm."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.vm.machine.root import complete_shares
from pyvmm.vm.options import VmOptions
from pyvmm.vm.share_options import Protocol, parse_rootfs

NEITHER, P9, VIRTIOFS = b"...", b"...9P2000.L\0...", b"...virtiofs\0..."


def options(kernel: Path, root: str = "tree") -> VmOptions:
    """Return a guest with a shared root."""
    return VmOptions(kernel=kernel, rootfs=parse_rootfs(root))


def test_initrd_is_the_one_beside_the_kernel(tmp_path: Path) -> None:
    """As `pyvmm image build` makes them, unless another one is given, or there is none."""
    kernel, beside, other = tmp_path / "Image", tmp_path / "initrd.img", tmp_path / "other"
    kernel.touch()
    assert complete_shares(options(kernel)).initrd is None
    beside.touch()
    assert complete_shares(options(kernel)).initrd == beside
    assert complete_shares(replace(options(kernel), initrd=other)).initrd == other
    assert complete_shares(VmOptions(kernel=kernel)).initrd is None


@pytest.mark.parametrize(
    ("kernel", "initrd", "root", "protocol"),
    [
        (P9, NEITHER, "tree", Protocol.P9),
        (VIRTIOFS, NEITHER, "tree", Protocol.VIRTIOFS),
        (VIRTIOFS, P9, "tree", Protocol.P9),
        (NEITHER, VIRTIOFS, "tree", Protocol.VIRTIOFS),
        (gzip.compress(VIRTIOFS, mtime=0), NEITHER, "tree", Protocol.VIRTIOFS),
        (NEITHER, NEITHER, "tree", Protocol.P9),
        (P9, NEITHER, "tree,virtiofs", Protocol.VIRTIOFS),
        (VIRTIOFS, NEITHER, "tree,ro,9p", Protocol.P9),
    ],
)
def test_protocol_is_one_that_the_kernel_has(
    tmp_path: Path, kernel: bytes, initrd: bytes, root: str, protocol: Protocol
) -> None:
    """In itself or in its initial RAM disk; 9P if it has both, and what the user says anyway."""
    (tmp_path / "Image").write_bytes(kernel)
    (tmp_path / "initrd.img").write_bytes(initrd)
    completed = complete_shares(options(tmp_path / "Image", root))
    assert completed.rootfs is not None
    assert completed.rootfs.protocol == protocol
    assert f"rootfstype={protocol}" in completed.bootargs


def test_kernel_that_cannot_be_read_is_left_to_the_loader(tmp_path: Path) -> None:
    """It names the reason."""
    completed = complete_shares(options(tmp_path / "missing"))
    assert completed.rootfs is not None
    assert completed.rootfs.protocol == Protocol.P9
