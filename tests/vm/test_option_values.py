"""The texts that the values of options are read from."""

import os
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.vm.memory_map import GIB, MIB
from pyvmm.vm.option_values import (
    DiskOptions,
    GdbAddress,
    VsockOptions,
    disk_serials,
    parse_cpu_features,
    parse_disk,
    parse_disks,
    parse_gdb,
    parse_num_cpus,
    parse_personalization,
    parse_ram_size,
    parse_vsock,
    read_metadata,
)


@pytest.mark.parametrize(
    ("text", "size"), [("64", 64 * MIB), ("64m", 64 * MIB), ("1G", GIB), ("8192K", 8 * MIB)]
)
def test_ram_size_has_units(text: str, size: int) -> None:
    """Without a unit it counts MiB, as in kvmtool."""
    assert parse_ram_size(text) == size


@pytest.mark.parametrize(
    "text", ["0", "1T", "", "-1", "1.5G", "3M", "4097K", "9" * 30, "M", "64MB"]
)
def test_impossible_ram_size_is_refused(text: str) -> None:
    """Nothing, too little, too much, no whole granules, or no number."""
    with pytest.raises(UserError, match=f"-m {text}: "):
        parse_ram_size(text)


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("+pauth", DEFAULT_FEATURES | Feature.PAUTH),
        ("-bti", DEFAULT_FEATURES & ~Feature.BTI),
        ("+bti,-pauth", DEFAULT_FEATURES & ~Feature.PAUTH),
        ("-pauth,-bti,-pmu", Feature(0)),
        ("+pauth,+bti", DEFAULT_FEATURES),
    ],
)
def test_cpu_features_are_added_and_left_out(text: str, features: Feature) -> None:
    """From the default ones, in any order."""
    assert parse_cpu_features(text) == features


@pytest.mark.parametrize("text", ["", "pauth", "+", "-", "+sve", "+pauth,", "+PAUTH", "+ bti"])
def test_unknown_cpu_features_are_refused(text: str) -> None:
    """With those that there are."""
    with pytest.raises(
        UserError, match=r"unknown feature .*: give \+pauth or -pauth, \+bti or -bti"
    ):
        parse_cpu_features(text)


@pytest.mark.parametrize("text", ["+bti,+bti", "+pauth,-bti,-pauth"])
def test_a_cpu_feature_is_said_once(text: str) -> None:
    """Nobody has to know which of the two counts."""
    with pytest.raises(UserError, match="occurs twice: give it once"):
        parse_cpu_features(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0", GdbAddress(port=0)),
        ("1234", GdbAddress(port=1234)),
        ("/run/gdb", GdbAddress(path=Path("/run/gdb"))),
        ("stub", GdbAddress(path=Path.cwd() / "stub")),
    ],
)
def test_a_debugger_connects_to_a_port_or_a_socket(text: str, address: GdbAddress) -> None:
    """Digits are a port, everything else a path."""
    assert parse_gdb(text) == address


@pytest.mark.parametrize("text", ["65536", "", "x" * 108, "ä" * 54])
def test_no_socket_has_such_an_address(text: str) -> None:
    """Beyond the ports, and beyond the length of a socket's path."""
    with pytest.raises(UserError, match="--gdb "):
        parse_gdb(text)


@pytest.mark.parametrize("text", ["0", "-1", "17", "two", "9" * 100, ""])
def test_impossible_number_of_cpus_is_refused(text: str) -> None:
    """There is at least one, and not more than the map has room for."""
    with pytest.raises(UserError, match="give 1 to 16"):
        parse_num_cpus(text)


def test_disk_may_be_read_only() -> None:
    """The option stands after a comma, as in kvmtool."""
    assert parse_disk("a.img,ro") == DiskOptions(Path("a.img"), is_read_only=True)
    assert parse_disk("a.img") == DiskOptions(Path("a.img"))
    assert parse_disk("a,b.img,rw") == DiskOptions(Path("a,b.img"))
    with pytest.raises(UserError, match="give ro, rw, direct, snapshot, serial=TEXT"):
        parse_disk("a.img,rx")


def test_disk_options_may_be_combined() -> None:
    """In any order; what excludes another one is refused."""
    path = Path("a.img")
    for text, disk in (
        ("a.img,direct", DiskOptions(path, is_direct=True)),
        ("a.img,cache=none", DiskOptions(path, is_direct=True)),
        ("a.img,cache=writeback", DiskOptions(path)),
        (
            "a.img,cache=writethrough,direct",
            DiskOptions(path, is_direct=True, is_write_through=True),
        ),
        ("a.img,snapshot", DiskOptions(path, is_snapshot=True)),
        ("a.img,format=qcow2", DiskOptions(path, format="qcow2")),
        ("a.qcow2", DiskOptions(Path("a.qcow2"), format="qcow2")),
        ("a.qcow2,format=raw,ro", DiskOptions(Path("a.qcow2"), is_read_only=True, format="raw")),
        (
            "a.qcow2,backing=/b=c.img",
            DiskOptions(Path("a.qcow2"), format="qcow2", backing=Path("/b=c.img")),
        ),
    ):
        assert parse_disk(text) == disk


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,ro,rw", "ro and rw exclude each other"),
        ("a,snapshot,ro", "ro and snapshot exclude each other"),
        ("a,direct,cache=writeback,cache=none", "cache occurs twice"),
        ("a,cache=unsafe", "unknown cache unsafe: give writeback, none, writethrough"),
        ("a,format=vmdk", "unknown format vmdk: give raw, qcow2"),
        ("a,backing=b", "backing requires a qcow2 image: add format=qcow2"),
        ("a.qcow2,backing=", "backing= is empty"),
        ("a,ro=1", "after a comma give ro"),
    ],
)
def test_impossible_disk_options_are_refused(text: str, why: str) -> None:
    """The line says what to do."""
    with pytest.raises(UserError, match=f"--disk {text}: {why}"):
        parse_disk(text)


def test_disk_may_have_a_serial_number() -> None:
    """In any order with the other option; any text that udev can make a name of."""
    named = DiskOptions(Path("a.img"), is_read_only=True, serial="WD 40=x")
    assert parse_disk("a.img,ro,serial=WD 40=x") == named
    assert parse_disk("a.img,serial=WD 40=x,ro") == named


@pytest.mark.parametrize("serial", ["", "x" * 21, "é", "a\tb", "a\0"])
def test_impossible_serial_number_is_refused(serial: str) -> None:
    """Virtio has 20 bytes for it."""
    with pytest.raises(UserError, match="1 to 20 printable ASCII characters"):
        parse_disk(f"a.img,serial={serial}")


def test_two_disks_have_two_serial_numbers() -> None:
    """What would name two disks names none."""
    assert [disk.serial for disk in parse_disks(["a,serial=x", "b,serial=y", "c"])] == [
        "x",
        "y",
        "",
    ]
    with pytest.raises(UserError, match="2 disks have serial=x"):
        parse_disks(["a,serial=x", "b,serial=x"])


def test_serial_number_stays_with_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever other disks there are, and however it is named; the same path twice differs."""
    monkeypatch.chdir(tmp_path)
    (first,) = disk_serials(parse_disks(["a.img"]))
    disks = parse_disks(["b.img", f"{tmp_path}/x/../a.img,ro", "./a.img,ro", "c,serial=mine"])
    serials = disk_serials(disks)
    assert (serials[1], serials[3]) == (first, "mine")
    assert len(set(serials)) == 4
    assert all(0 < len(serial) <= 20 and serial.isascii() for serial in serials)


def test_personalization_value_has_64_bytes() -> None:
    """Bytes, not characters."""
    assert parse_personalization(os.fsdecode(b"\xe9\xff")) == b"\xe9\xff"
    assert parse_personalization("é" * 32) == "é".encode() * 32
    with pytest.raises(UserError, match="65 bytes"):
        parse_personalization("x" + "é" * 32)


def test_empty_personalization_value_is_refused() -> None:
    """It would be the value of a realm that has none: 64 zeros."""
    with pytest.raises(UserError, match="--realm-pv is empty"):
        parse_personalization("")


@pytest.mark.parametrize("size", [0, 431, 4097])
def test_metadata_are_a_block(tmp_path: Path, size: int) -> None:
    """Not less than what is signed, not more than a granule."""
    path = tmp_path / "metadata"
    path.write_bytes(bytes(size))
    with pytest.raises(UserError, match="--metadata"):
        read_metadata(str(path))
    path.write_bytes(bytes(432))
    assert read_metadata(str(path)) == bytes(432)


@pytest.mark.parametrize(
    ("text", "vsock"),
    [
        ("auto", VsockOptions()),
        ("3", VsockOptions(3)),
        ("4294967294,uds=/run/a,b", VsockOptions(4294967294, Path("/run/a,b"))),
        ("auto,uds=x", VsockOptions(None, Path("x"))),
    ],
)
def test_a_vsock_has_a_cid_and_a_socket(text: str, vsock: VsockOptions) -> None:
    """Both may be left to pyvmm."""
    assert parse_vsock(text) == vsock


@pytest.mark.parametrize(
    "text", ["", "2", "-1", "4294967295", "99999999999", "x", "²", "auto,", "auto,uds=", "3,x=y"]
)
def test_a_wrong_vsock_is_refused(text: str) -> None:
    """The host's CID, one that is none, or an unknown key."""
    with pytest.raises(UserError, match=f"--vsock {text}: "):
        parse_vsock(text)
