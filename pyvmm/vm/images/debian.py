"""A sample guest: Debian's arm64 kernel, an initial RAM disk and a small root file system.

Packages are unpacked but not installed: their maintainer scripts are arm64 programs.  The little
that they would have done is done below (accounts, links, a first process of our own).
"""

import hashlib
import importlib.resources
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests
from pyvmm.vm.images import INITRD_NAME, full
from pyvmm.vm.images.apt import PrivateApt, find_tool, require_tools
from pyvmm.vm.images.cpio import CpioArchive
from pyvmm.vm.images.ext4 import EPOCH, choose_size, make_disk, scan_tree
from pyvmm.vm.images.loader import unpack_kernel
from pyvmm.vm.images.lock import building
from pyvmm.vm.json_text import decode

#: Called with the current step and the progress of the whole build in percent.
Report = Callable[[str, float], None]

#: A shell and few commands, unpacked; or a Debian with systemd and tools, installed.
MINIMAL, FULL = PROFILES = ("minimal", "full")
#: The step of a build that another one delays.
WAITING: Final = "waiting for another build"
#: Realms need Linux's arm64 RSI support.
OLDEST_KERNEL: Final = (6, 13)
#: A package as in apt-get's arguments, optionally with a version or a release.
_PACKAGE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9+.:=/~_-]*")
_SUITES: Final = ("stable", "stable-backports", "testing")
#: The newest kernel from any suite; everything else from one release, also perf, for its libraries.
_PREFERENCES: Final = {
    "linux-perf": "release a=stable",
    "linux-*": "version *",
    "*": "release a=stable",
}
_STANDARD: Final[Mapping[str, Sequence[str]]] = {
    MINIMAL: (
        *("base-files", "bash", "busybox-static", "coreutils", "curl", "dash", "findutils", "grep"),
        *("gzip", "hostname", "iproute2", "iputils-ping", "less", "libc-bin", "mawk", "mount"),
        *("ncurses-base", "procps", "sed", "tar", "util-linux"),
    ),
    FULL: (*full.FIRST, *full.PACKAGES),
}

_BUS: Final = "virtio_mmio"
#: Drivers that the initial RAM disk loads if their device exists: device alias → modules.
_DRIVERS: Final = {
    "virtio:d00000001": ("virtio_net",),
    "virtio:d00000002": ("virtio_blk", "ext4"),
    "virtio:d00000004": ("virtio_rng",),
    "virtio:d00000005": ("virtio_balloon",),
    "virtio:d00000009": ("9pnet_virtio", "9p"),  # some of Debian's kernels lack it
    "virtio:d00000013": ("vmw_vsock_virtio_transport",),
    "virtio:d0000001a": ("virtiofs",),
    "platform:arm-cca-dev": ("arm_cca_guest",),  # attestation, in a realm
    "of:NwatchdogT(null)Carm,sbsa-gwdt": ("sbsa_gwdt",),
}
#: Drivers of the power button, which the first process of the disk loads when it listens.
_BUTTON_DRIVERS: Final = ("evdev", "virtio_input")
_ATTEST: Final = "usr/local/bin/attest"
_BUTTON_PLACE: Final = "usr/lib/pyvmm/power-button"
_INITRD_COMMANDS: Final = (
    *("chroot", "cttyhack", "insmod", "mount", "setsid", "sh", "switch_root", "umount"),
)
#: Commands that busybox provides and the packages above do not.
_BUSYBOX_COMMANDS: Final = (
    *("clear", "hexdump", "insmod", "ip", "killall", "lsmod", "modinfo", "modprobe", "nc"),
    *("nslookup", "ping", "rmmod", "strings", "traceroute", "udhcpc", "unxz", "unzip", "vi"),
    *("wget", "xxd", "xz"),
)
_SIGNATURE_MAGIC: Final = b"~Module signature appended~\n"
_SIGNATURE_INFO_SIZE: Final = 12  # struct module_signature; its last word is the signature's size
_MIN_DISK: Final = 512 << 20
_FREE_SPACE: Final = 256 << 20


def _fstab(*mounts: tuple[str, str, str]) -> str:
    return "".join(f"{kind} {where} {kind} {options} 0 0\n" for kind, where, options in mounts)


_INITRD_FSTAB: Final = _fstab(
    ("devtmpfs", "/dev", "defaults"), ("proc", "/proc", "defaults"), ("sysfs", "/sys", "defaults")
)
_FILES: Final[Mapping[str, str]] = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/fstab": _fstab(
        ("proc", "/proc", "defaults"),
        ("sysfs", "/sys", "defaults"),
        ("devpts", "/dev/pts", "gid=5,mode=620"),
        ("tmpfs", "/run", "mode=755"),
        ("tmpfs", "/tmp", "defaults"),  # noqa: S108  the guest's, not ours
    ),
    # Scripts read the console too: no escape sequences except those that a program asks for.
    "etc/inputrc": "set enable-bracketed-paste off\nset bell-style none\n",
    "etc/profile": "PS1='\\u@\\h:\\w\\$ '\nalias ls='ls --color=auto'\n",
}
_LINKS: Final[Mapping[str, str]] = {
    "usr/bin/awk": "mawk",
    "usr/bin/pager": "less",
    "usr/sbin/halt": "poweroff",
    "usr/sbin/reboot": "poweroff",
    "usr/sbin/shutdown": "poweroff",
}
_SCRIPTS: Final[Mapping[str, str]] = {
    "usr/sbin/init": "rootfs-init.sh",
    "usr/sbin/poweroff": "poweroff.sh",
    "etc/udhcpc/default.script": "udhcpc.sh",
}


@dataclass(frozen=True, slots=True)
class Image:
    """The files of a guest, in one directory."""

    directory: Path

    @property
    def kernel(self) -> Path:
        """The arm64 Image."""
        return self.directory / "Image"

    @property
    def initrd(self) -> Path:
        """The initial RAM disk."""
        return self.directory / INITRD_NAME

    @property
    def rootfs(self) -> Path:
        """The disk."""
        return self.directory / "rootfs.img"

    @property
    def manifest(self) -> Path:
        """The record of what the files were made from; written last, so the others are complete."""
        return self.directory / "image.json"

    def read_manifest(self) -> "Manifest | None":
        """Return the manifest; None if it is missing or damaged, or one of the files is missing."""
        try:
            manifest = decode(self.manifest.read_bytes(), Manifest)
        except (OSError, msgspec.DecodeError):
            return None
        files = (self.kernel, self.initrd, self.rootfs)
        return manifest if all(path.exists() for path in files) else None


class Recipe(msgspec.Struct, frozen=True):
    """The user's choices for an image.

    ``packages`` are added to the standard ones, with their dependencies.  ``size`` is the disk's in
    bytes; 0 chooses a size with some free space.  ``kernel`` is the flavour of Debian's kernel: the
    end of its package's name.  ``profile`` is one of PROFILES.
    """

    packages: tuple[str, ...] = ()
    size: int = 0
    kernel: str = "cloud-arm64"
    profile: str = MINIMAL

    @property
    def digest(self) -> str:
        """Return a digest of the recipe and of the code here that builds an image."""
        scripts = (_script(name) for name in sorted(_script_names()))
        choices = [*sorted(self.packages), str(self.size), self.kernel, self.profile]
        code = (Path(path).read_text() for path in (__file__, full.__file__))
        texts = [*code, *scripts, *choices]
        parts = [*map(str.encode, texts), guests.agent()]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def choose_size(self, needed: int) -> int:
        """Return the disk's size; its files need ``needed`` bytes.

        Raises:
            UserError: that is more than the user's choice.
        """
        what = "Debian with these packages" if self.packages else "Debian"
        free_space = _FREE_SPACE if self.profile == MINIMAL else full.FREE_SPACE
        return choose_size(self.size, needed, what, free_space=free_space, minimum=_MIN_DISK)


class Manifest(msgspec.Struct, frozen=True):
    """The record of what an image was built from."""

    digest: str  # of the recipe and of the code that built it
    recipe: Recipe
    kernel: str  # its release
    packages: list[str]
    built: float  # seconds since 1970

    @property
    def is_current(self) -> bool:
        """Whether this version of pyvmm would build it in the same way."""
        return self.digest == self.recipe.digest


def build_debian(
    output: Path,
    cache: Path,
    report: Report,
    *,
    recipe: Recipe | None = None,
    force: bool = False,
) -> Image:
    """Build the Debian guest, unless it exists.

    Args:
        output: directory for the files.
        cache: directory for package lists and packages.
        report: called with the progress.
        recipe: the user's choices.
        force: build it again, from the current packages.

    Raises:
        UserError: a package, apt or a tool does not exist, or no space is left.
    """
    recipe = recipe or Recipe()
    for name in recipe.packages:
        if not _PACKAGE.fullmatch(name):
            raise UserError(f"--with {name}: not a valid name of a Debian package")
    if not _PACKAGE.fullmatch(recipe.kernel):
        raise UserError(f"--kernel {recipe.kernel}: give a flavour such as cloud-arm64 or arm64")
    image = Image(output)
    if not force and _is_made(image, recipe):
        return image
    if find_tool("apt-get") is None:
        raise UserError(
            "this machine has no apt to fetch Debian: copy an arm64 kernel (Linux 6.13 or newer,"
            " virtio built in) here as Image and an ext4 disk as rootfs.img, then use"
            " pyvmm run --realm --kernel Image --disk rootfs.img"
        )
    require_tools(**{"dpkg-deb": "dpkg", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"})
    start = time.time()
    try:
        with building(cache, lambda: report(WAITING, 0)):
            if _is_made(image, recipe, 0.0 if not force else start):
                return image  # by the process that held the lock
            output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".build-", dir=output) as scratch:
                _build(image, Path(scratch), cache, recipe, report)
    except OSError as error:
        raise UserError(f"{error.filename or output}: {error.strerror}: choose --output") from error
    return image


def _is_made(image: Image, recipe: Recipe, since: float = 0.0) -> bool:
    """Check whether an image was built from a recipe, not earlier than a time."""
    made = image.read_manifest()
    return made is not None and made.digest == recipe.digest and made.built >= since


def _build(image: Image, scratch: Path, cache: Path, recipe: Recipe, report: Report) -> None:
    apt = PrivateApt(cache / "apt-arm64", "arm64")
    archive = apt.update(
        _SUITES, _PREFERENCES, lambda percent: report("package lists", percent * 0.1)
    )
    wanted = (*_STANDARD[recipe.profile], *recipe.packages)
    recipe.choose_size(apt.installed_size(wanted))  # fail now: the rest takes minutes
    kernel_debs = apt.download(
        _kernel_packages(apt, recipe.kernel), lambda percent: report("kernel", 10 + percent * 0.1)
    )
    debs = apt.download_closure(wanted, lambda percent: report("userland", 20 + percent * 0.2))

    made = Image(scratch)
    report("unpacking the kernel", 40)
    kernel_tree, root = scratch / "kernel", scratch / "root"
    _unpack(kernel_debs, kernel_tree)
    modules = Modules(next(kernel_tree.glob("**/lib/modules/*")))
    made.kernel.write_bytes(unpack_kernel(_find_kernel(kernel_tree).read_bytes(), "the kernel"))
    report("unpacking the userland", 45)
    if recipe.profile == MINIMAL:
        _unpack(debs, root)
        complete_root(root)
    else:
        first = apt.download_closure(full.FIRST, lambda _percent: None)
        _unpack(first, root)
        full.prepare(root, archive, first, debs, _script(full.INSTALL_SCRIPT))
        _add_agent(root)
    _add_modules(root, modules)
    report("initial RAM disk", 55)
    made.initrd.write_bytes(make_initrd(modules, _busybox(root)))
    report("root file system", 60)
    make_rootfs(root, made.rootfs, recipe)
    if recipe.profile == FULL:
        full.install(
            made.kernel, made.initrd, made.rootfs, 2 * len(debs), partial(report, "installing")
        )
    packages = sorted(deb.stem for deb in [*kernel_debs, *debs])
    manifest = Manifest(recipe.digest, recipe, modules.release, packages, time.time())
    made.manifest.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    for path in (made.kernel, made.initrd, made.rootfs, made.manifest):
        path.replace(image.directory / path.name)
    report("done", 100)


def _script_names() -> Iterator[str]:
    yield "initrd-init.sh"
    yield "attest.sh"
    yield full.INSTALL_SCRIPT
    yield from _SCRIPTS.values()


def _script(name: str) -> str:
    return (importlib.resources.files("pyvmm.vm.images") / "scripts" / name).read_text()


def _kernel_packages(apt: PrivateApt, flavour: str) -> list[str]:
    """Return the packages of the newest kernel: the image, modules and others that vary."""
    kernel = f"linux-image-{flavour}"
    version = apt.candidate(kernel)
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_KERNEL:
        raise UserError(
            f"the newest {kernel} in {', '.join(_SUITES)} is {version or 'missing'}; a realm needs"
            f" {'.'.join(map(str, OLDEST_KERNEL))}: use a mirror that carries these suites"
        )
    is_part = re.compile(rf"linux-.*\d[^-]*-{flavour}").fullmatch
    return [name for name in apt.dependencies(kernel) if is_part(name)]


def _unpack(debs: Iterable[Path], directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for deb in debs:
        _call(["dpkg-deb", "--extract", str(deb), str(directory)])


def _call(command: Sequence[str], **env: str) -> None:
    """Run a tool that must succeed."""
    path = find_tool(command[0]) or command[0]
    result = subprocess.run(
        [path, *command[1:]],
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["without a message"])[-1]
        raise UserError(f"{command[0]} failed ({last}): check the free space and the download")


def _find_kernel(tree: Path) -> Path:
    """Return the kernel's file: in /boot or beside the modules, depending on the release."""
    for pattern in ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"):
        for path in tree.glob(pattern):
            return path
    raise UserError("Debian's kernel package has no kernel in a known place: try another suite")


def _busybox(root: Path) -> bytes:
    return (root / "usr/bin/busybox").read_bytes()


class Modules:
    """The kernel modules of one release, with their dependencies."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.release = directory.name
        self._dependencies: dict[str, list[str]] = {}
        self._paths = {
            _module_name(path): path for path in sorted(directory.glob("kernel/**/*.ko*"))
        }

    def content(self, name: str) -> bytes:
        """Return a module's ELF object, decompressed."""
        path = self._paths[name]
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def unsigned(self, name: str) -> bytes:
        """Return a module's ELF object without its signature.

        An interpreted guest takes a second per module to verify it, and it proves only that the
        module belongs to the kernel, which is true here; a realm's measurement covers it anyway.
        """
        data = self.content(name)
        if not data.endswith(_SIGNATURE_MAGIC):
            return data
        end = len(data) - len(_SIGNATURE_MAGIC)
        size = int.from_bytes(data[end - 4 : end])
        return data[: end - _SIGNATURE_INFO_SIZE - size]

    def load_order(self, names: Iterable[str]) -> list[str]:
        """Return modules and their dependencies in an order in which they can be loaded.

        Names without a module are left out: those drivers are built into the kernel.
        """
        order: dict[str, None] = {}
        for name in names:
            if name in self._paths:
                order |= dict.fromkeys([*self.load_order(self.dependencies(name)), name])
        return list(order)

    def dependencies(self, name: str) -> list[str]:
        """Return the direct dependencies of a module, from its `.modinfo` section."""
        if name not in self._dependencies:
            match = re.search(rb"\0depends=([^\0]*)\0", self.content(name))
            listed = match[1].decode().split(",") if match else []
            self._dependencies[name] = [_underscored(needed) for needed in listed if needed]
        return self._dependencies[name]

    def dependency_file(self) -> str:
        """Return modules.dep, as depmod writes it when the package is installed."""
        lines = []
        for name, path in self._paths.items():
            needed = reversed(self.load_order([name])[:-1])
            places = [self._paths[n].relative_to(self.directory) for n in needed]
            lines.append(f"{path.relative_to(self.directory)}: {' '.join(map(str, places))}\n")
        return "".join(lines)


def _module_name(path: Path) -> str:
    return _underscored(path.name.split(".")[0])


def _underscored(name: str) -> str:
    return name.replace("-", "_")


def make_initrd(modules: Modules, busybox: bytes) -> bytes:
    """Return the initial RAM disk, uncompressed: unpacking would cost the guest too much time."""
    archive = CpioArchive()
    for directory in ("bin", "dev", "etc", "lib", "lib/modules", "mnt", "proc", "root", "sys"):
        archive.add_directory(directory)
    archive.add_char_device("dev/console", 5, 1)
    archive.add_file("etc/fstab", _INITRD_FSTAB.encode())
    archive.add_file("bin/busybox", busybox, 0o755)
    for command in _INITRD_COMMANDS:
        archive.add_symlink(f"bin/{command}", "busybox")
    for name in modules.load_order([_BUS, *chain.from_iterable(_DRIVERS.values())]):
        archive.add_file(f"lib/modules/{name}.ko", modules.unsigned(name))
    drivers = {alias: modules.load_order(names) for alias, names in _DRIVERS.items()}
    lines = (f"{alias} {' '.join(needed)}\n" for alias, needed in drivers.items())
    archive.add_file("lib/modules/drivers", "".join(lines).encode())
    archive.add_file("init", _script("initrd-init.sh").encode(), 0o755)
    return archive.finish()


def complete_root(root: Path) -> None:
    """Do what installing the packages would have done, and add our first process."""
    for directory in ("dev", "proc", "sys", "run", "root", "tmp", "mnt", "etc"):
        (root / directory).mkdir(exist_ok=True)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    for name, script in _SCRIPTS.items():
        (root / name).unlink(missing_ok=True)
        _write_program(root / name, _script(script).encode())
    _add_agent(root)
    for name, target in _LINKS.items():
        _link(root / name, target)
    present = {path.name for path in (*root.glob("usr/bin/*"), *root.glob("usr/sbin/*"))}
    for command in set(_BUSYBOX_COMMANDS) - present:
        _link(root / "usr/bin" / command, "busybox")
    for clutter in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"):
        shutil.rmtree(root / clutter, ignore_errors=True)


def _add_agent(root: Path) -> None:
    _write_program(root / "usr/sbin/pyvmm-agent", guests.agent())
    _write_program(root / _ATTEST, _script("attest.sh").encode())


def _write_program(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)


def _add_modules(root: Path, modules: "Modules") -> None:
    place = root / "usr/lib/modules" / modules.release
    shutil.copytree(
        modules.directory, place, ignore=shutil.ignore_patterns("System.map", "vmlinuz", "dtb")
    )
    (place / "modules.dep").write_text(modules.dependency_file())
    place = root / _BUTTON_PLACE
    place.mkdir(parents=True)
    for number, name in enumerate(modules.load_order(_BUTTON_DRIVERS)):
        (place / f"{number}-{name}.ko").write_bytes(modules.unsigned(name))


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def make_rootfs(root: Path, disk: Path, recipe: Recipe) -> None:
    """Write a tree to a new ext4 disk; the same packages give the same bytes."""
    tree = scan_tree(root, newest=EPOCH)
    make_disk(disk, tree, recipe.choose_size(tree.needed_size), "debian")
