"""A kernel's source tree."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.machine.kernel_tree import KernelTree


def make(directory: Path, *names: str) -> None:
    """Make empty files."""
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()


@pytest.mark.parametrize(
    "signs", [("Kconfig", "Kbuild", "arch/arm64/Kconfig"), (".config", "source", "arch/arm64/x")]
)
def test_built_kernel_is_found(tmp_path: Path, signs: tuple[str, ...]) -> None:
    """With its symbols, if they are there."""
    make(tmp_path, *signs)
    with pytest.raises(UserError, match="without arch/arm64/boot/Image: build it with make"):
        KernelTree.find(tmp_path)
    make(tmp_path, "arch/arm64/boot/Image")
    assert KernelTree.find(tmp_path) == KernelTree(tmp_path / "arch/arm64/boot/Image", None)
    make(tmp_path, "vmlinux")
    found = KernelTree.find(tmp_path)
    assert found is not None
    assert found.vmlinux == tmp_path / "vmlinux"


def test_other_directory_is_none(tmp_path: Path) -> None:
    """An Image somewhere is not enough: a project may have one for something else."""
    make(tmp_path, "Kconfig", "arch/arm64/boot/Image")
    assert KernelTree.find(tmp_path) is None
