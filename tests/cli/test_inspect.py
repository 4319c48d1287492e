"""pyvmm inspect: pictures of a realm and of a normal VM, and what it refuses."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from pyvmm.arch.pictures import GptPicture, RecordPicture
from pyvmm.cli.pictures.canvas import NOTICE
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.inside import verb
from tests.cli.instance import REALM, VM, create, status
from tests.cli.kernels import IDLE, kernel

pytestmark = pytest.mark.usefixtures("runtime")

RAM = "0x80080000"
KINDS = ("gpt", "pe", "gic", "timers", "tlb", "code", "queues")
OF_REALMS = ("realm", "rec", "rtt")


def look(*words: str) -> str:
    """Return what a picture says, without the notice."""
    shown = verb("inspect", *words)
    assert (shown.code, shown.errors) == (ExitCode.OK, "")
    notice, _, text = shown.output.partition("\n")
    assert notice == NOTICE
    return text


def look_json(*words: str) -> object:
    """Return a picture as data."""
    shown = verb("inspect", *words, "--json")
    assert (shown.code, shown.errors) == (ExitCode.OK, "")
    return json.loads(shown.output)


def test_pictures_of_a_realm(tmp_path: Path) -> None:
    """From its first table to who owns it; looking does not change the measurement."""
    create("r1", *REALM, "--observe")
    create("r2", *REALM)
    assert status("r1")["rim"] == status("r2")["rim"]
    for kind in (*KINDS, *OF_REALMS):
        assert look("r1", kind)
    shown = verb("inspect", "r1", "realm", "--json").output
    (realm,) = msgspec.json.decode(shown, type=list[RecordPicture])
    base = realm.fields["rtt_base"]
    assert "the table and the RMM's books agree on every granule" in look("r1", "gpt")
    owner = look("r1", "granule", base)
    assert f"owner   realm {realm.address}: RTT of level" in owner
    assert "normal world, devices  no: granule protection fault" in owner
    walk = look("r1", "walk", RAM, "--ipa")
    assert f"at {base[:-4]}" in walk  # one of the start tables
    assert "page" in walk.splitlines()[2]
    assert "none" not in walk
    assert look("r1", "tlb").startswith("PE 0 entries: none\n")
    assert "it has executed no instruction there" in look("r1", "code")
    picture = tmp_path / "gpt.svg"
    assert verb("inspect", "r1", "gpt", "--svg", str(picture)).code == ExitCode.OK
    assert picture.read_text().startswith("<svg")


def test_pictures_of_a_running_normal_vm(tmp_path: Path) -> None:
    """It goes on as before; a paused one stays paused."""
    create("v1", *VM, "--observe", "-c", "2", kernel(tmp_path, IDLE))
    assert verb("start", "v1").code == ExitCode.OK
    for kind in KINDS:
        assert look("v1", kind)
    entry = r"fetches\n +EL1 +0x80080000 +4.0 KiB x +-> +0x40080000 NS"
    assert re.search(entry, look("v1", "tlb"))
    listing = look("v1", "code", RAM)
    assert re.search(r"[·│▶] 0x0000000080080000  d503207f  wfi", listing)
    assert re.search(r"[·│▶] 0x0000000080080004  17ffffff  b", listing)
    assert "no instruction there" in look("v1", "code", "0x80090000", "--pe", "1")
    assert "EL1 virtual address" in look("v1", "walk", RAM, "--pe", "1")
    table = msgspec.json.decode(
        verb("inspect", "v1", "gpt", "--json").output, type=GptPicture
    ).table
    assert "realm world            no" in look("v1", "granule", table)
    assert status("v1")["state"] == "running"
    assert verb("pause", "v1").code == ExitCode.OK
    before = look_json("v1", "pe")
    assert look_json("v1", "pe") == before
    assert status("v1")["state"] == "paused"
    assert verb("resume", "v1").code == ExitCode.OK
    ended = verb("inspect", "v1", "rtt")
    assert ended.errors == "pyvmm: no realm exists: this is a normal VM\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("walk",), "walk requires an address, such as 0x80000000"),
        (("gpt", "0"), "gpt takes no address: omit '0'"),
        (("walk", "main"), "'main' is not an address: give a number such as 0x80000000"),
        (("granule", hex(1 << 64)), f"'{1 << 64:#x}' is not an address: give a number such as"),
        (("code", "main"), "'main' is not an address: give a number such as 0x80000000"),
        (("code", "--pe", "9"), "PE 9 does not exist: the guest has 1, from 0"),
        (("walk", "0", "--pe", "9"), "PE 9 does not exist: the guest has 1, from 0"),
        (("granule", "0"), "0x0 is not in DRAM: give 0x40000000 to 0x"),
        (("gpt", "--svg", "/nowhere/x.svg"), "--svg /nowhere/x.svg: No such file or directory"),
        (("walk", "0", "--vmlinux", "/nowhere"), "--vmlinux /nowhere: No such file or directory"),
    ],
)
def test_mistakes(words: tuple[str, ...], line: str) -> None:
    """One line, exit code 2."""
    create("r1", *REALM, "--observe")
    ended = verb("inspect", "r1", *words)
    assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
    assert ended.errors.startswith(f"pyvmm: {line}")


def test_only_who_may_be_observed_is(tmp_path: Path) -> None:
    """An instance without --observe, one that does not exist, one that has ended."""
    create("v1", *VM, kernel(tmp_path, IDLE))
    for kind in KINDS:
        ended = verb("inspect", "v1", kind)
        line = "pyvmm: v1 cannot be observed: create it with --observe\n"
        assert (ended.code, ended.errors) == (ExitCode.BAD_INPUT, line)
    assert pyvmm("inspect", "nobody", "gpt").code == ExitCode.BAD_INPUT
