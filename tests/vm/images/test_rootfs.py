"""Root file systems for one program: what they contain, and what is rejected before a boot."""

import os
import shutil
import struct
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests
from pyvmm.vm.images.ext4 import scan_tree
from pyvmm.vm.images.program import ProgramFile
from pyvmm.vm.images.rootfs import EntryPoint, build_rootfs
from tests.boot.command import call, is_clean, read_from, sbin

MIB = 1 << 20
EM_AARCH64, EM_X86_64 = 183, 62
PT_DYNAMIC, PT_INTERP = 2, 3


def make_elf(machine: int = EM_AARCH64, interpreter: str = "", needed: str = "") -> bytes:
    """Return a program of headers: its dynamic linker, and a library that it needs."""
    text = interpreter.encode() + b"\0" + needed.encode() + b"\0"
    base = 64 + 3 * 56
    dynamic = base + len(text)
    tags = ((1, len(interpreter) + 1), (5, base), (10, len(text)), (0, 0))  # NEEDED, STRTAB, STRSZ
    rows = [(1, 0, base + len(text) + 16 * len(tags))]  # PT_LOAD: file offsets are addresses
    rows += [(PT_INTERP, base, len(interpreter) + 1)] if interpreter else []
    rows += [(PT_DYNAMIC, dynamic, 16 * len(tags))] if needed else []
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\2\1\1", 2, machine, 1, 0, 64, 0, 0, 64, 56, len(rows), 64, 0, 0),
    )
    for kind, at, size in rows:
        header += struct.pack("<IIQQQQQQ", kind, 4, at, at, at, size, size, 1)
    return header.ljust(base, b"\0") + text + b"".join(struct.pack("<QQ", *tag) for tag in tags)


def add(root: Path, path: str, content: bytes, mode: int = 0o755) -> None:
    """Make a file below a directory."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    (root / path).chmod(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a directory with a program in it."""
    root = tmp_path / "root"
    add(root, "app/main", make_elf())
    return root


def inside(disk: Path, directory: str) -> set[str]:
    """Return the names in a directory of a disk."""
    listing = call(sbin("debugfs"), "-R", f"ls -p {directory}", disk).output
    return {line.split("/")[5] for line in listing.splitlines() if line.startswith("/")}


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of what a newc archive holds, by path."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        fields = [int(data[at + 6 + 8 * n :][:8], 16) for n in range(13)]
        start = at + 110 + fields[11]
        name = data[at + 110 : start - 1].decode()
        if name == "TRAILER!!!":
            return found
        start += -start % 4
        found[name] = fields[1], data[start : start + fields[6]]
        at = start + fields[6] + -fields[6] % 4


def test_rootfs_has_the_program_and_an_init(root: Path, tmp_path: Path) -> None:
    """It has the tree, mount points, our init, and the init's entry point."""
    disk = tmp_path / "disk"
    entry_point = EntryPoint("/app/main", ("one", "two words"), ("A=b c",))
    build_rootfs(root, disk, entry_point)
    assert is_clean(disk)
    assert {"app", "dev", "proc", "run", "sbin", "sys", "tmp", ".pyvmm"} <= inside(disk, "/")
    assert call(sbin("debugfs"), "-R", "stat /sbin/init", disk).output.count("Mode:  0755") == 1
    size = len(guests.agent())
    assert f"Size: {size}" in call(sbin("debugfs"), "-R", "stat /sbin/init", disk).output
    assert read_from(disk, "/.pyvmm/entrypoint") == "/app/main\0one\0two words\0"
    assert read_from(disk, "/.pyvmm/environment") == "A=b c\0"
    assert disk.stat().st_size > 64 * MIB > disk.stat().st_blocks * 512


def test_rootfs_is_the_same_each_time(root: Path, tmp_path: Path) -> None:
    """Its digest identifies its contents."""
    for name in ("first", "second"):
        build_rootfs(root, tmp_path / name, EntryPoint("/app/main"))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_rootfs_follows_source_date_epoch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh copy of the files makes no difference then."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    build_rootfs(root, tmp_path / "first", EntryPoint("/app/main"))
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copy)
    build_rootfs(tmp_path / "copy", tmp_path / "second", EntryPoint("/app/main"))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_init_goes_where_sbin_leads(root: Path, tmp_path: Path) -> None:
    """Distributions have sbin as a link; mount points are empty."""
    (root / "usr/sbin").mkdir(parents=True)
    (root / "sbin").symlink_to("/usr/sbin")
    add(root, "usr/sbin/init", b"another")
    add(root, "proc/1/environ", b"of this machine")
    build_rootfs(root, tmp_path / "disk", EntryPoint("/app/main"))
    assert read_from(tmp_path / "disk", "/usr/sbin/init")[1:4] == "ELF"
    assert inside(tmp_path / "disk", "/proc") == {".", ".."}
    assert (root / "usr/sbin/init").read_bytes() == b"another"


def test_initrd_is_continued(root: Path, tmp_path: Path) -> None:
    """The same files as on a disk, below the directory that its init looks for."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"070701 what it was")
    os.mkfifo(root / "app/pipe")
    (root / "app/link").symlink_to("main")
    build_rootfs(root, tmp_path / "made", EntryPoint("/app/main"), initrd=initrd)
    made = (tmp_path / "made").read_bytes()
    assert made.startswith(initrd.read_bytes() + b"\0\0" + b"070701")
    found = read_cpio(made[20:])
    assert found["rootfs/app/main"] == (0o100755, make_elf())
    assert found["rootfs/app/link"] == (0o120777, b"main")
    assert found["rootfs/app/pipe"][0] & 0o170000 == 0o010000
    assert found["rootfs/sbin/init"] == (0o100755, guests.agent())
    assert found["rootfs/tmp"][0] == 0o041777
    with pytest.raises(UserError, match="none: No such file"):
        build_rootfs(root, tmp_path / "made", EntryPoint("/app/main"), initrd=tmp_path / "none")


@pytest.mark.parametrize("program", ["", "/sbin/init"])
def test_tree_with_an_init_of_its_own_is_packed_as_it_is(
    root: Path, tmp_path: Path, program: str
) -> None:
    """No init of ours, no entry point."""
    add(root, "sbin/init", make_elf() + b"its own")
    build_rootfs(root, tmp_path / "disk", EntryPoint(program))
    assert read_from(tmp_path / "disk", "/sbin/init").endswith("its own")
    assert ".pyvmm" not in inside(tmp_path / "disk", "/")
    with pytest.raises(UserError, match="from the kernel"):
        build_rootfs(root, tmp_path / "disk", EntryPoint(program, ("x",)))


def test_bad_input_is_one_line_and_leaves_no_file(root: Path, tmp_path: Path) -> None:
    """No directory, no program, an output inside the directory, too small a size."""
    output = tmp_path / "disk"
    main = EntryPoint("/app/main")
    cases: list[tuple[Path, Path, EntryPoint, int, str]] = [
        (tmp_path / "none", output, main, 0, "no such directory"),
        (root / "app/main", output, main, 0, "no such directory"),
        (root, root / "disk", main, 0, "the directory to pack"),
        (root, tmp_path / "none/disk", main, 0, "No such file.*-o"),
        (root, output, EntryPoint(), 0, r"not contain /sbin/init.*--init"),
        (root, output, EntryPoint("/app/other"), 0, r"not contain /app/other.*--init"),
        (root, output, EntryPoint("/app"), 0, "is not a file"),
        (root, output, main, MIB, "at least 16M"),
        (root, output, EntryPoint("/app/main", ("x" * 40_000,)), 0, "bytes; the limit is 32767"),
    ]
    for directory, disk, entry_point, size, complaint in cases:
        with pytest.raises(UserError, match=complaint) as refused:
            build_rootfs(directory, disk, entry_point, size)
        assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        (make_elf(), 0o644, r"not executable: chmod \+x"),
        (make_elf(EM_X86_64), 0o755, "is for x64: build or download one for arm64"),
        (make_elf()[:70], 0o755, "damaged"),
        (b"\x7fELF", 0o755, "damaged"),
        (b"echo hello\n", 0o755, "is not a program"),
        (b"", 0o755, "is not a program"),
        (b"#!\n", 0o755, "names no interpreter"),
        (b"#!/bin/sh\n", 0o755, "needs the interpreter /bin/sh"),
        (b"#! /app/main", 0o755, "names no interpreter"),
        (make_elf(interpreter="/lib/ld.so"), 0o755, "needs the dynamic linker /lib/ld.so"),
        (make_elf(interpreter="/lib/lib.so", needed="libx.so.1"), 0o755, "the library libx.so.1"),
    ],
)
def test_program_that_cannot_run_is_refused(
    root: Path, content: bytes, mode: int, complaint: str
) -> None:
    """The error says what is missing."""
    add(root, "app/main", content, mode)
    add(root, "lib/lib.so", make_elf())
    with pytest.raises(UserError, match=complaint):
        ProgramFile(scan_tree(root), "/app/main").check()


def test_program_with_all_it_needs_is_accepted(root: Path) -> None:
    """A script, its interpreter, its dynamic linker, its library; by links too."""
    add(root, "run", b"#! /usr/bin/env sh\n")
    add(root, "usr/bin/env", make_elf(interpreter="/lib/ld.so.1", needed="libc.so.6"))
    add(root, "usr/lib/ld-real.so", make_elf())
    add(root, "usr/lib/aarch64-linux-gnu/libc.so.6", make_elf())
    (root / "usr/lib/ld.so.1").symlink_to("ld-real.so")
    (root / "lib").symlink_to("usr/lib")
    ProgramFile(scan_tree(root), "/run").check()
