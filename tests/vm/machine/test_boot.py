"""The layout of the payload."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm import guests, memory_map
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.options import VmOptions

SMALL = 64 * MIB


def test_built_in_guest_boots_without_any_file() -> None:
    """The payload is code, then the device tree, whose address is in x0."""
    config = make_config(VmOptions(ram_size=SMALL))
    code, dtb = config.segments
    assert (code.ipa, code.data) == (config.entry, guests.hello())
    assert config.args == (dtb.ipa, 0, 0, 0)
    assert dtb.data.startswith(b"\xd0\x0d\xfe\xed")


def test_segments_ascend_and_the_initrd_is_in_the_tree(tmp_path: Path) -> None:
    """A realm's construction and measurement need the payload sorted by address."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"070701" * 1000)
    config = make_config(VmOptions(ram_size=SMALL, initrd=initrd))
    assert [s.ipa for s in config.segments] == sorted(s.ipa for s in config.segments)
    assert config.segments[1].data == initrd.read_bytes()
    assert config.segments[1].ipa.to_bytes(8) in config.segments[2].data


def test_dumped_tree_is_what_the_guest_gets_and_can_be_given_back(tmp_path: Path) -> None:
    """A device tree written by --dump-dtb can be edited and used with --dtb."""
    dump = tmp_path / "dtb"
    config = make_config(VmOptions(ram_size=SMALL, dump_dtb=dump, params="first"))
    assert config.segments[-1].data == dump.read_bytes()
    assert len(dump.read_bytes()) == memory_map.DTB_SIZE
    again = make_config(VmOptions(ram_size=SMALL, dtb=dump, params="second"))
    assert again.segments[-1].data == dump.read_bytes()


def linux(path: Path) -> Path:
    """Write a file with the header of an arm64 Image."""
    path.write_bytes(bytes(56) + b"ARM\x64" + bytes(4096))
    return path


def test_parameters_are_bytes() -> None:
    """Their bytes are passed unchanged, in any encoding."""
    params = os.fsdecode(b"caf\xe9=\xc3\xa9")
    for options in (VmOptions(params=params), VmOptions(params=params, has_defaults=False)):
        dtb = make_config(replace(options, ram_size=SMALL)).segments[-1].data
        assert b"caf\xe9=\xc3\xa9\0" in dtb


def test_parameters_that_linux_would_cut_are_refused(tmp_path: Path) -> None:
    """The limit is 2047 bytes, with the default parameters."""
    kernel = linux(tmp_path / "Image")
    for options, taken in (
        (VmOptions(has_defaults=False), 2047),
        (VmOptions(), 2047 - len("console=ttyS0 ")),
        (VmOptions(is_realm=True), 2047),
    ):
        whole = replace(options, ram_size=SMALL, kernel=kernel)
        assert make_config(replace(whole, params="x" * taken)).segments
        assert make_config(replace(whole, params="x" + "\u00e9" * (taken // 2))).segments
        for params in ("x" * (taken + 1), "xx" + "\u00e9" * (taken // 2)):
            with pytest.raises(
                UserError, match=r"parameters have 2048 bytes.*; Linux's limit is 2047"
            ):
                make_config(replace(whole, params=params))


def test_limit_of_linux_is_not_that_of_others(tmp_path: Path) -> None:
    """A flat kernel has no limit of its own; a user's device tree has its own parameters."""
    long = VmOptions(ram_size=SMALL, params="x" * 5000)
    dtb = tmp_path / "dtb"
    assert make_config(replace(long, dump_dtb=dtb)).segments
    assert make_config(replace(long, dtb=dtb, kernel=linux(tmp_path / "Image"))).segments


def test_payload_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Each file fits alone, but not both."""
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(SMALL)
    with pytest.raises(UserError, match="do not fit below the device tree in 64 MiB"):
        make_config(VmOptions(ram_size=SMALL, initrd=initrd))


@pytest.mark.parametrize("content", [b"not a tree", b"\xd0\x0d\xfe\xed\x00\x01\x00\x00"])
def test_device_tree_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    """Other files and truncated ones are rejected."""
    path = tmp_path / "dtb"
    path.write_bytes(content)
    with pytest.raises(UserError, match="device tree"):
        make_config(VmOptions(ram_size=SMALL, dtb=path))
    with pytest.raises(UserError, match="dump-dtb"):
        make_config(VmOptions(ram_size=SMALL, dump_dtb=tmp_path / "no/where"))
