"""The parts of the Debian image that need no Debian."""

import lzma
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import msgspec
import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests
from pyvmm.vm.images import debian
from pyvmm.vm.images.apt import PrivateApt
from pyvmm.vm.images.debian import Image, Manifest, Modules, Recipe, build_debian, make_initrd
from pyvmm.vm.images.lock import building
from pyvmm.vm.memory_map import MIB


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    """Make a small tree of modules: compressed, plain, and with a dash in the name."""
    drivers = tmp_path / "1.2/kernel/drivers"
    drivers.mkdir(parents=True)
    for name, needs in (
        ("virtio_mmio.ko.xz", ""),
        ("virtio_net.ko.xz", "net-failover"),
        ("net-failover.ko.xz", "failover"),
        ("failover.ko", ""),
    ):
        elf = b"\x7fELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0"
        (drivers / name).write_bytes(lzma.compress(elf) if name.endswith("xz") else elf)
    return Modules(tmp_path / "1.2")


def test_load_order_puts_a_module_after_what_it_needs(modules: Modules) -> None:
    """Dependencies come first, once; drivers that are built in are left out."""
    order = modules.load_order(["virtio_net", "built_in", "net_failover"])
    assert order == ["failover", "net_failover", "virtio_net"]


def test_dependency_file_is_what_modprobe_reads(modules: Modules) -> None:
    """A line lists what a module needs, nearest first, by path."""
    assert (
        "kernel/drivers/virtio_net.ko.xz: kernel/drivers/net-failover.ko.xz"
        " kernel/drivers/failover.ko\n" in modules.dependency_file()
    )


def test_initrd_loads_by_device(modules: Modules) -> None:
    """The list that its init reads names each device's modules in load order, decompressed."""
    initrd = make_initrd(modules, b"busybox")
    assert b"virtio:d00000001 failover net_failover virtio_net\n" in initrd
    assert initrd.count(b"\x7fELF") == 4


def test_root_starts_the_agent(tmp_path: Path) -> None:
    """Its program is in the path of the first process, a script that starts it."""
    root = tmp_path / "root"
    for directory in ("usr/bin", "usr/sbin", "usr/lib"):
        (root / directory).mkdir(parents=True)
    debian.complete_root(root)
    agent = root / "usr/sbin/pyvmm-agent"
    assert (agent.read_bytes(), agent.stat().st_mode & 0o777) == (guests.agent(), 0o755)
    assert "\tpyvmm-agent exec " in (root / "usr/sbin/init").read_text()


def test_unsigned_module_is_what_stands_before_the_signature(tmp_path: Path) -> None:
    """The trailer has the signature's size; a module without one is not changed."""
    (tmp_path / "kernel").mkdir()
    trailer = bytes(8) + (3).to_bytes(4) + b"~Module signature appended~\n"
    (tmp_path / "kernel/signed.ko").write_bytes(b"\x7fELF signed" + b"sig" + trailer)
    (tmp_path / "kernel/plain.ko").write_bytes(b"\x7fELF plain")
    modules = Modules(tmp_path)
    assert modules.unsigned("signed") == b"\x7fELF signed"
    assert modules.unsigned("plain") == b"\x7fELF plain"


def test_build_does_nothing_when_the_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a missing file or another recipe causes a new build."""
    made = Image(tmp_path)
    for path in (made.kernel, made.initrd, made.rootfs):
        path.touch()
    write(made, Recipe())
    monkeypatch.setattr(debian, "_build", lambda *_: pytest.fail("built again"))
    assert build_debian(tmp_path, tmp_path / "cache", lambda *_: None) == made
    assert Recipe(("a", "b")).digest == Recipe(("b", "a")).digest
    recipes = Recipe(("a",)), Recipe(size=1), Recipe(profile="full"), Recipe()
    assert len({recipe.digest for recipe in recipes}) == 4
    for manifest in ('{"recipe": "old"}', "[" * 100_000, "old"):
        made.manifest.write_text(manifest)
        assert made.read_manifest() is None
    write(made, Recipe())
    made.rootfs.unlink()
    assert made.read_manifest() is None


def write(image: Image, recipe: Recipe) -> None:
    """Write the manifest of an image that is built now."""
    manifest = Manifest(recipe.digest, recipe, "7.2", [], time.time())
    image.manifest.write_bytes(msgspec.json.encode(manifest))


@pytest.mark.parametrize("force", [False, True])
def test_second_of_two_builds_waits_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    """And then has nothing left to build: the first began later than the wish for it."""
    made, steps = Image(tmp_path / "image"), list[str]()
    made.directory.mkdir()

    def report(step: str, _percent: float) -> None:
        steps.append(step)
        for path in (made.kernel, made.initrd, made.rootfs):
            path.touch()
        write(made, Recipe())
        first.close()

    monkeypatch.setattr(debian, "_build", lambda *_: pytest.fail("built again"))
    first = ExitStack()
    with first:
        first.enter_context(building(tmp_path))
        assert build_debian(made.directory, tmp_path, report, force=force) == made
    assert steps == [debian.WAITING]


@pytest.mark.parametrize(
    ("asked", "needed", "size"),
    [(0, 100 * MIB, 512 * MIB), (0, 600 * MIB + 1, 857 * MIB), (700 * MIB, 600 * MIB, 700 * MIB)],
)
def test_disk_grows_with_the_packages(asked: int, needed: int, size: int) -> None:
    """The user's choice of a size overrides that."""
    assert Recipe(("gcc",), asked).choose_size(needed) == size


class Archive:
    """An archive with two flavours of a kernel."""

    def candidate(self, package: str) -> str:
        """Return the version of a kernel."""
        return "7.2.12-1" if package.startswith("linux-image-") else ""

    def dependencies(self, package: str) -> list[str]:
        """Return the dependencies of a kernel's package: its parts, and other packages."""
        flavour = package.removeprefix("linux-image-")
        parts = [f"linux-{part}-7.2.12+deb14-{flavour}" for part in ("image", "modules")]
        return [package, *parts, "linux-base", "kmod", "linux-image-7.2.12+deb14-cloud-arm64"]


@pytest.mark.parametrize("flavour", ["arm64", "arm64-16k"])
def test_kernel_is_of_the_flavour_that_is_asked_for(flavour: str) -> None:
    """The packages are all parts of that kernel and of no other."""
    names = debian._kernel_packages(cast("PrivateApt", Archive()), flavour)
    assert names == [f"linux-{part}-7.2.12+deb14-{flavour}" for part in ("image", "modules")]


def test_too_small_a_disk_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package lists show it; existing files are not changed."""
    monkeypatch.setattr(PrivateApt, "update", lambda *_: None)
    monkeypatch.setattr(PrivateApt, "installed_size", lambda *_: 600 * MIB)
    monkeypatch.setattr(PrivateApt, "candidate", lambda *_: pytest.fail("went on"))
    with pytest.raises(
        UserError, match="--size is too small for Debian with these packages: give at least 600M"
    ):
        build_debian(
            tmp_path / "image",
            tmp_path / "cache",
            lambda *_: None,
            recipe=Recipe(("gcc",), 512 * MIB),
        )
    assert list((tmp_path / "image").iterdir()) == []


def test_wrong_flavour_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    """It would be part of a package's name."""
    with pytest.raises(UserError, match="--kernel a b: give a flavour such as"):
        build_debian(tmp_path, tmp_path, lambda *_: None, recipe=Recipe(kernel="a b"))


def test_build_names_the_files_to_bring_where_there_is_no_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without apt, one line says what the user needs instead."""
    monkeypatch.setattr(debian, "find_tool", lambda _: None)
    with pytest.raises(UserError, match=r"Image.*rootfs\.img"):
        build_debian(tmp_path, tmp_path, lambda *_: None)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
@pytest.mark.parametrize(
    "name",
    [
        "attest.sh",
        "full-install.sh",
        "initrd-init.sh",
        "rootfs-init.sh",
        "poweroff.sh",
        "udhcpc.sh",
    ],
)
def test_guest_scripts_parse(name: str) -> None:
    """A mistake in a guest's script is found here, not during a boot."""
    path = Path(debian.__file__).parent / "scripts" / name
    subprocess.run(["sh", "-n", str(path)], check=True)
