"""Build the server's realm: Debian's kernel, and an initial RAM disk with openssl and the server.

    python build.py DIRECTORY

The initial RAM disk is that of `pyvmm image build`, followed by a second archive; Linux unpacks
both. Nothing is on a disk, so everything that the realm runs is measured.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

import pyvmm.vm
from pyvmm.vm.images.apt import find_tool
from pyvmm.vm.images.cpio import CpioArchive

HERE = Path(__file__).parent
ATTEST = Path(pyvmm.vm.__file__).parent / "images/scripts/attest.sh"
PYVMM = Path(sys.executable).parent / "pyvmm"
LIBRARIES = "/usr/lib/aarch64-linux-gnu"


def needed(program: Path) -> list[str]:
    """Return the libraries that a program or library names."""
    with program.open("rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".dynamic")
        assert isinstance(dynamic, DynamicSection), program
        return [tag.needed for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]


def closure(program: Path, libraries: Path) -> set[Path]:
    """Return all libraries that a program needs, directly or indirectly."""
    found: set[Path] = set()
    wanted = needed(program)
    while wanted:
        library = libraries / wanted.pop()
        if library not in found:
            found.add(library)
            wanted += needed(library)
    return found


def server_archive(disk: Path, scratch: Path) -> bytes:
    """Return the archive with the server and the programs that it uses."""
    unpack = f"rdump /usr/bin/openssl {LIBRARIES} {scratch}"  # without mounting the disk
    debugfs = find_tool("debugfs") or "debugfs"
    subprocess.run([debugfs, "-R", unpack, str(disk)], check=True, capture_output=True)
    openssl = scratch / "openssl"
    archive = CpioArchive()
    for directory in ("ra-tls", "tmp", "usr", "usr/bin"):
        archive.add_directory(directory)
    archive.add_file("usr/bin/openssl", openssl.read_bytes(), 0o755)
    for library in sorted(closure(openssl, scratch / Path(LIBRARIES).name)):
        archive.add_file(f"lib/{library.name}", library.read_bytes(), 0o755)
    for path in (*sorted((HERE / "guest").iterdir()), ATTEST):
        archive.add_file(f"ra-tls/{path.name.removesuffix('.sh')}", path.read_bytes(), 0o755)
    return archive.finish()


def build(directory: Path) -> None:
    """Build the files in a directory."""
    command = [PYVMM, "image", "build", "debian", "--with", "openssl", "--output", directory]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as scratch:
        archive = server_archive(directory / "rootfs.img", Path(scratch))
    (directory / "ra-tls.img").write_bytes((directory / "initrd.img").read_bytes() + archive)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
