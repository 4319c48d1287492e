"""Any invalid input of a user: one line that explains it, exit code 2, quickly."""

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.vm.images.debian import Image
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.options import VmOptions
from tests.boot.command import PYVMM, Ended, call, pyvmm
from tests.boot.inside import run_inside
from tests.cli.inside import verb

MAX_CPU_TIME = 5.0  # seconds: enough on any machine, and no time to read what never ends

#: What could be read for ever is given to a process of its own, which can be ended.
ENDLESS = ("fifo", "/dev/zero")

#: So that a file without permissions is unreadable for root too.
UNPRIVILEGED = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


def arm64_image(size: int, raw_size: int) -> bytes:
    """Return the start of an Image: its header, and a PE section table that promises more."""
    header = pack("<2sHIQQQQQQ4sI", b"MZ", 0, 0x14000010, 0, size, 0xA, 0, 0, 0, b"ARM\x64", 64)
    pe = pack("<4sHHIIIHH", b"PE\0\0", 0xAA64, 1, 0, 0, 0, 160, 0)
    section = pack("<8sIIIIIIHHI", b".text", size, 0x1000, raw_size, 0x1000, 0, 0, 0, 0, 0)
    return header + pe + bytes(160) + section


def elf(machine: int) -> bytes:
    """Return a tiny executable for a machine."""
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = pack("<16sHHIQQQIHHHHHH", ident, 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + pack("<IIQQQQQQ", 1, 7, 0, 0, 0, 120, 120, 0x1000)


def zboot() -> bytes:
    """Return the header of a compressed EFI kernel."""
    return pack("<4s4sII8x32s", b"MZ\0\0", b"zimg", 0x1000, 0x2000, b"gzip") + bytes(0x3000)


#: File name → its bytes.
FILES: dict[str, Callable[[], bytes]] = {
    "truncated": lambda: arm64_image(8 * MIB, 4 * MIB) + bytes(MIB),
    "random": lambda: random.Random(1).randbytes(MIB),
    "bzImage": lambda: bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS" + bytes(MIB),
    "vmlinux": lambda: elf(62),
    "object": lambda: elf(183)[:64],
    "half-elf": lambda: elf(183)[:40],
    "zboot": zboot,
    "cut.gz": lambda: gzip.compress(random.Random(2).randbytes(4096))[:-100],
    "broken.gz": lambda: gzip.compress(bytes(4096))[:12] + random.Random(3).randbytes(64),
    "bomb.gz": lambda: gzip.compress(bytes(100 * MIB), compresslevel=1),
    "empty": bytes,
    "text": lambda: b"this is not a kernel\n" * 100,
    "big": lambda: bytes(20 * MIB),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the files; one of them is not readable."""
    directory = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (directory / name).write_bytes(content())
    os.mkfifo(directory / "fifo")
    locked = directory / "locked"
    locked.write_bytes(bytes(4096))
    locked.chmod(0)
    return directory


def check(ended: Ended, *words: str) -> None:
    """Check the form of an error."""
    assert (ended.code, ended.output) == (2, ""), ended.errors
    assert ended.errors.startswith("pyvmm: ")
    assert ended.errors.count("\n") == 1, ended.errors
    for word in words:
        assert word in ended.errors
    assert ended.cpu_time < MAX_CPU_TIME


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--kernel {}/truncated", "truncated: download or copy it again"),
        ("--kernel {}/random", "not an arm64 kernel: give"),
        ("--kernel {}/bzImage", "x86 kernel: build or download"),
        ("--kernel {}/vmlinux", "is for x64: build or download one for arm64"),
        ("--kernel {}/object", "ELF"),
        ("--kernel {}/half-elf", "damaged ELF"),
        ("--kernel {}/zboot", "zboot kernel: unpack it with tail -c +4097"),
        ("--kernel {}/cut.gz", "truncated: download"),
        ("--kernel {}/broken.gz", "damaged gzip data: download"),
        ("-m 64M --kernel {}/bomb.gz", "unpacks to more than 64 MiB: give more with -m"),
        ("--kernel {}/empty", "empty: download"),
        ("--kernel {}/text", "text file: give a kernel"),
        ("--kernel {}", "is a directory: give a regular file"),
        ("--kernel {}/none", "No such file"),
        ("--kernel /dev/zero", "is a character device: give a regular file"),
        ("--kernel {}/fifo", "is a pipe: give a regular file"),
        ("--initrd {}/fifo", "is a pipe: give a regular file"),
        ("--disk {}/fifo", "is a pipe: give a regular file"),
        ("--disk {}/fifo,ro", "is a pipe: give a regular file"),
        ("--config {}/fifo", "is a pipe without a writer"),
        ("--dump-dtb {}/fifo", "No such device or address"),
        ("-m 16M --kernel {}/big", "more with -m"),
        ("-m 16M --initrd {}/big", "more with -m"),
        ("--initrd {}/none", "No such file"),
        ("--initrd {}", "is a directory"),
        ("--disk {}/none", "No such file"),
        ("--disk {}", "is a directory"),
        ("--disk {}/empty", "is empty; give it a size"),
        ("--disk {}/text --disk {}/text", "given twice"),
        ("--disk {}/text,fast", "give ro, rw, direct, snapshot, serial=TEXT"),
        ("--dtb {}/random", "device tree"),
        ("--dtb {}/none", "No such file"),
        ("--dump-dtb {}/none/dtb", "No such file"),
        ("-m 0", "at least"),
        ("-m 1T", "give less"),
        ("-m lots", "give a size such as"),
        ("-m -1", "-1"),
        ("-m 99999999999999999999999", "give a size"),
        ("-m 65537B", "at least"),
        ("-m 4194305B", "multiple of 4K"),
        ("-c 0", "give 1 to"),
        ("-c 1000", "give 1 to"),
        ("-c two", "give 1 to"),
        ("--kernel {}/big {}/big", "two kernels"),
        ("--machine virt", "no built-in guest: give a kernel with -k, or --firmware"),
        ("--machine pc", "pc"),
        ("--firmware {}/big", "add --machine virt"),
        ("--flash {}/vars", "--flash requires --firmware"),
        ("--machine virt --realm --firmware {}/big", "not for realms, which start from measured"),
        ("--machine virt --firmware {}/big -k {}/big", "--firmware excludes --kernel"),
        ("--machine virt --firmware {}/big -i {}/big", "--firmware excludes --initrd"),
        ("--machine virt --firmware {}/big -p quiet", "--firmware excludes --params"),
        ("--machine virt --firmware {}/none", "No such file"),
        ("--machine virt --firmware {}", "is a directory: give a regular file"),
        ("--machine virt --firmware {}/fifo", "is a pipe: give a regular file"),
        ("--machine virt --firmware {}/empty", "is empty: give an image such as QEMU_EFI.fd"),
        ("--machine virt --firmware {}/text", "not an arm64 image: give one such as"),
        ("--machine virt --firmware {}/random", "not an arm64 image: give one such as"),
        ("--realm-pv x", "add --realm"),
        ("--measurement-algo sha512", "add --realm"),
        ("--realm --measurement-algo md5", "md5"),
        ("--console paper", "paper"),
        ("--timeout -1", "--timeout"),
        ("--trace rmi,nothing", "nothing: give all, help or some of"),
        ("--trace rmi:{}/none/file", "No such file"),
        ("-n mode=pigeon", "mode=pigeon: give"),
        ("-n mode=tap", "tapif"),
        ("-n mode=user,hostfwd=80", "hostfwd=80: give"),
    ],
)
def test_refused_in_one_line(files: Path, options: str, words: str) -> None:
    """What is wrong and what to do about it."""
    run = pyvmm if any(each in options for each in ENDLESS) else verb
    check(run("run", *options.replace("{}", str(files)).split()), words)


@pytest.mark.parametrize("option", ["--kernel", "--initrd", "--disk", "--dtb"])
def test_unreadable_file_is_refused_in_one_line(files: Path, option: str) -> None:
    """For root, too, if it lacks its capabilities."""
    prefix = UNPRIVILEGED if os.geteuid() == 0 else ()
    check(call(*prefix, PYVMM, "run", option, files / "locked"), "Permission denied")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("mode=user", "install the package passt or libslirp0"),
        ("backend=passt", "install the package passt"),
        ("backend=slirp", "install the package libslirp0"),
    ],
)
def test_missing_user_mode_is_refused_in_one_line(tmp_path: Path, network: str, words: str) -> None:
    """It names the package to install."""
    (tmp_path / "libslirp.so.0").touch()  # no library, and found before the host's
    env = {"PATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    check(pyvmm("run", "-n", network, env=env), words)


@pytest.mark.boot
@pytest.mark.parametrize("size", [63, 4096, 3 * MIB, -64 * 1024])
def test_truncated_debian_kernel_is_refused(debian: Image, tmp_path: Path, size: int) -> None:
    """Wherever the download broke off: Linux would die silently."""
    cut = tmp_path / "Image"
    cut.write_bytes(debian.kernel.read_bytes()[:size])
    check(pyvmm("run", "--kernel", cut))


@pytest.mark.boot
def test_initrd_larger_than_memory_beside_a_real_kernel(debian: Image) -> None:
    """The line says how much memory is needed."""
    options = ("-m", "40M", "--kernel", debian.kernel, "--initrd", debian.initrd)
    check(pyvmm("run", *options), "more with -m")


def damaged(base: bytes, cuts: list[tuple[int, int]]) -> bytes:
    """Return a file with some bytes changed."""
    data = bytearray(base)
    for at, value in cuts:
        data[at % len(data)] = value
    return bytes(data)


#: What makes a reader of files look closer.
MAGICS = (b"", b"\x7fELF\x02\x01\x01", b"MZ", b"\x1f\x8b\x08", b"\xd0\x0d\xfe\xed", b"070701")
CONTENTS = st.one_of(
    st.binary(max_size=2048),
    st.builds(lambda head, rest: head + rest, st.sampled_from(MAGICS), st.binary(max_size=512)),
    st.builds(
        damaged,
        st.sampled_from([arm64_image(65536, 4096), elf(183), elf(62), zboot()[:256]]),
        st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=8),
    ),
)


@pytest.mark.parametrize("what", ["kernel", "initrd", "dtb"])
@settings(max_examples=150)
@given(content=CONTENTS)
def test_any_file_is_taken_or_refused(what: str, content: bytes) -> None:
    """Any bytes, for any option, are accepted or reported as the user's error."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "file")
        path.write_bytes(content)
        named = {what: path}
        options = VmOptions(
            kernel=named.get("kernel"),
            initrd=named.get("initrd"),
            dtb=named.get("dtb"),
            ram_size=64 * MIB,
        )
        try:
            config = make_config(options)
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ""
            end = options.ram_size + config.ram_base
            assert all(s.ipa + len(s.data) <= end for s in config.segments)
        assert "\n" not in refusal


@pytest.mark.parametrize("is_realm", [False, True])
@pytest.mark.parametrize("number", range(4))
def test_any_program_is_run(seed: int, number: int, tmp_path: Path, *, is_realm: bool) -> None:
    """No random instructions cause an error in pyvmm."""
    kernel = tmp_path / "kernel"
    words = random.Random(f"{seed} {number}")
    code = b"".join(words.choice(PIECES)(words) for _ in range(4096))
    kernel.write_bytes(code)
    options = VmOptions(kernel=kernel, ram_size=64 * MIB, is_realm=is_realm)
    run_inside(options, timeout=0.3)


#: Kinds of instructions: calls, accesses to anywhere, system registers, anything.
PIECES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda words: pack("<I", words.choice((0xD4000002, 0xD4000003)) | words.getrandbits(16) << 5),
    lambda words: pack(
        "<I", 0xD2800000 | words.getrandbits(21) << 5 & 0x7FFFE0 | words.getrandbits(3)
    ),
    lambda words: pack("<I", 0xF9000000 | words.getrandbits(22) << 3 & 0x7FFFFF),
    lambda words: pack("<I", 0xD5100000 | words.getrandbits(20)),
    lambda words: pack("<I", words.getrandbits(32)),
)
