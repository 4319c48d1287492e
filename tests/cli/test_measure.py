"""pyvmm measure: the RIM, its steps, and the difference between two logs."""

import hashlib
import json
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import RimExtension
from pyvmm.arch.rmi import RealmParams
from pyvmm.cli import cli
from pyvmm.devices.bus import Bus
from pyvmm.host.vgic import Vgic
from pyvmm.platform import Platform, replay
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.option_values import parse_ram_size
from pyvmm.vm.options import VmOptions
from tests.boot.command import PYVMM

SMALL = ("--realm", "-m", "64M")
Capture = pytest.CaptureFixture[str]


def measure(capsys: Capture, *arguments: str) -> str:
    """Run the verb, which must succeed; return its output."""
    assert cli.main(["measure", *arguments], standalone_mode=False) == 0
    return capsys.readouterr().out.strip()


def save_log(capsys: Capture, path: Path, *arguments: str) -> list[dict[str, str]]:
    """Write a log to a file, and return its steps."""
    path.write_text(measure(capsys, *SMALL, "--log", "--json", *arguments))
    log = json.loads(path.read_text())
    assert log["rim"] == log["log"][-1]["rim"]
    steps: list[dict[str, str]] = log["log"]
    return steps


def number(step: dict[str, str], name: str) -> int:
    """Return a field of a step."""
    return int(step[name], 16)


def descriptor(kind: int, rim: bytes, body: bytes) -> bytes:
    """Return a measurement descriptor in the specification's layout."""
    return (struct.pack("<B7xQ64s", kind, 256, rim) + body).ljust(256, b"\0")


def rim_of(steps: list[dict[str, str]], algo: str) -> str:
    """Compute a RIM from a log, following the specification."""
    rim = b""
    for step in steps:
        match step["step"]:
            case "REALM_CREATE":
                params = bytearray(4096)
                for offset, size, name in (
                    (0x00, 8, "flags"), (0x08, 4, "s2sz"), (0x10, 4, "sve_vl"),
                    (0x18, 4, "num_bps"), (0x20, 4, "num_wps"), (0x28, 4, "pmu_num_ctrs"),
                    (0x30, 1, "hash_algo"),
                ):  # fmt: skip
                    params[offset : offset + size] = number(step, name).to_bytes(size, "little")
                data = bytes(params)
            case "DEBUG":
                data = descriptor(0x80, rim, b"")
            case "RIPAS":
                span = struct.pack("<QQ", number(step, "base"), number(step, "top"))
                data = descriptor(2, rim, span)
            case "DATA":
                place = struct.pack("<QQ", number(step, "ipa"), number(step, "flags"))
                data = descriptor(0, rim, place + bytes.fromhex(step["content"]))
            case _:
                rec = bytearray(4096)
                struct.pack_into("<Q", rec, 0, number(step, "flags"))
                struct.pack_into("<Q", rec, 0x200, number(step, "pc"))
                gprs = [int(gpr, 16) for gpr in step["gprs"].split(",")]
                struct.pack_into("<8Q", rec, 0x300, *gprs)
                data = descriptor(1, rim, hashlib.new(algo, rec).digest())
        rim = hashlib.new(algo, data).digest()
        assert step["rim"] == rim.hex()
    return rim.hex()


@pytest.mark.parametrize("algo", ["sha256", "sha512"])
def test_log_leads_to_the_rim(capsys: Capture, tmp_path: Path, algo: str) -> None:
    """By an independent implementation of the specification's formulas."""
    options = ("--measurement-algo", algo)
    steps = save_log(capsys, tmp_path / "log", *options)
    assert rim_of(steps, algo) == measure(capsys, *SMALL, *options)


def test_performance_monitors_are_measured(capsys: Capture, tmp_path: Path) -> None:
    """The flag and the number of event counters, as on any host that gives that many."""
    choices = ((), ("--pmu",), ("--pmu-counters", "5", "--pmu"))
    rims = [measure(capsys, *SMALL, *each) for each in choices]
    assert len(set(rims)) == 3
    steps = save_log(capsys, tmp_path / "log", "--pmu", "--pmu-counters", "5")
    assert (number(steps[0], "flags"), number(steps[0], "pmu_num_ctrs")) == (4, 5)
    assert rim_of(steps, "sha256") == rims[2]
    assert measure(capsys, *SMALL, "--pmu", "--host", "pmu_num_ctrs=5") == rims[2]


def kvmtool_rim(kernel: bytes, initrd: bytes, dtb: bytes) -> str:
    """Compute the RIM of a realm of 64 MiB from its files alone, with kvmtool's memory map."""
    dtb_ipa = 0x83E0_0000
    initrd_ipa = dtb_ipa - (len(initrd) + 4 & ~3)
    span = struct.pack(">QQ", initrd_ipa, initrd_ipa + len(initrd))
    assert dtb.count(span[:8]) == dtb.count(span[8:]) == 1  # linux,initrd-start and -end
    ram = bytearray(64 << 20)
    pages = set()
    for ipa, data in ((0x8008_0000, kernel), (initrd_ipa, initrd), (dtb_ipa, dtb)):
        ram[ipa - 0x8000_0000 : ipa - 0x8000_0000 + len(data)] = data
        pages |= set(range(ipa & -4096, ipa + len(data), 4096))
    rim = hashlib.sha256(struct.pack("<8xQ8xQQ", 33, 1, 1).ljust(4096, b"\0")).digest()
    for base in range(0x8000_0000, 0x8400_0000, 2 << 20):
        span = struct.pack("<QQ", base, base + (2 << 20))
        rim = hashlib.sha256(descriptor(2, rim, span)).digest()
    for ipa in sorted(pages):
        content = hashlib.sha256(ram[ipa - 0x8000_0000 :][:4096]).digest()
        body = struct.pack("<QQ", ipa, 1) + content.ljust(64, b"\0")
        rim = hashlib.sha256(descriptor(0, rim, body)).digest()
    rec = bytearray(4096)
    struct.pack_into("<Q", rec, 0, 1)
    struct.pack_into("<Q", rec, 0x200, 0x8008_0000)
    struct.pack_into("<Q", rec, 0x300, dtb_ipa)
    rec_digest = hashlib.sha256(rec).digest().ljust(64, b"\0")
    return hashlib.sha256(descriptor(1, rim, rec_digest)).hexdigest()


@pytest.mark.parametrize("size", range(4096, 4106))
def test_rim_is_that_of_kvmtool_whatever_the_size_of_the_initrd(
    capsys: Capture, tmp_path: Path, size: int
) -> None:
    """The initial RAM disk is 1 to 4 bytes below the device tree, which contains its address."""
    kernel, initrd, dtb = (tmp_path / name for name in ("kernel", "initrd", "dtb"))
    kernel.write_bytes(0x1400_0000.to_bytes(4, "little") * 2000)
    initrd.write_bytes(random.Random(size).randbytes(size))
    rim = measure(capsys, *SMALL, "-k", str(kernel), "-i", str(initrd), "--dump-dtb", str(dtb))
    assert rim == kvmtool_rim(kernel.read_bytes(), initrd.read_bytes(), dtb.read_bytes())


def test_that_a_realm_may_be_debugged_is_a_step(capsys: Capture, tmp_path: Path) -> None:
    """It is the second step, on this machine and on others."""
    closed = save_log(capsys, tmp_path / "closed")
    for host in ((), ("--host", "num_bps=5")):
        steps = save_log(capsys, tmp_path / "open", "--realm-debug", *host)
        assert [step["step"] for step in steps[:3]] == ["REALM_CREATE", "DEBUG", "RIPAS"]
        assert rim_of(steps, "sha256") != closed[-1]["rim"]
        assert [step["step"] for step in (*steps[:1], *steps[2:])] == [s["step"] for s in closed]


def test_log_has_every_step_in_the_canonical_order(capsys: Capture, tmp_path: Path) -> None:
    """All RAM in 2 MiB entries, the payload by ascending address, only the boot REC."""
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(0x1400_0000.to_bytes(4, "little") * 2000)
    initrd.write_bytes(b"070701" * 1000)
    log = save_log(capsys, tmp_path / "log", "-k", str(kernel), "-i", str(initrd), "-c", "2")
    kinds = [step["step"] for step in log]
    assert kinds == ["REALM_CREATE", *["RIPAS"] * 32, *["DATA"] * (2 + 2 + 16), "REC"]
    assert number(log[1], "base") == 0x8000_0000
    assert number(log[32], "top") == 0x8400_0000
    data = log[33:-1]
    assert [number(step, "ipa") for step in data] == sorted(number(step, "ipa") for step in data)
    parts = [step["of"] for step in data]
    assert parts == ["kernel"] * 2 + ["initrd"] * 2 + ["device tree"] * 16
    assert data[0]["content"] == hashlib.sha256(kernel.read_bytes()[:4096]).hexdigest()
    assert number(log[-1], "pc") == number(data[0], "ipa")


def test_log_for_a_reader_ends_with_the_rim(capsys: Capture) -> None:
    """One line per step."""
    lines = measure(capsys, *SMALL, "--log").splitlines()
    assert lines[0].startswith("REALM_CREATE flags=0x0 s2sz=0x21 ")
    assert lines[-1].split() == ["RIM", measure(capsys, *SMALL)]


def test_options_that_do_not_concern_the_guest_change_nothing(
    capsys: Capture, tmp_path: Path
) -> None:
    """Any command line of `run` is accepted; a disk need not exist."""
    rim = measure(capsys, *SMALL)
    ignored = ("--name x", "--timeout 3", "--trace rmi", "--realm-pv mine")
    for options in (*ignored, "--cpu-features -pauth,-bti"):  # the platform token has these
        assert measure(capsys, *SMALL, *options.split()) == rim
    assert measure(capsys, *SMALL, "-d", str(tmp_path / "none")) != rim


def test_port_of_the_agent_is_measured(capsys: Capture) -> None:
    """It is in the device tree: with a disk by default, or by option."""
    rims = [
        measure(capsys, *SMALL, *options.split())
        for options in ("", "--agent", "-d x --no-agent", "-d x", "-d x --agent")
    ]
    assert len(set(rims)) == 4
    assert rims[3] == rims[4]


def peak_memory(*arguments: str) -> int:
    """Run the verb; return its peak memory (KiB)."""
    with subprocess.Popen([PYVMM, "measure", *arguments], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def test_measuring_takes_memory_by_the_size_of_the_payload(tmp_path: Path) -> None:
    """Not by the guest's: 512 GiB take no more than 64 MiB."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(0x1400_0000.to_bytes(4, "little") * 2000)
    small = peak_memory(*SMALL, "-k", str(kernel))
    assert peak_memory("--realm", "-m", "512G", "-k", str(kernel)) < small + (8 << 10)


@pytest.mark.parametrize("size", ["4M", "66M", "2G"])
def test_rim_is_that_of_the_realm_that_is_run(capsys: Capture, size: str) -> None:
    """Although measuring allocates only the payload."""
    options = VmOptions(ram_size=parse_ram_size(size), is_realm=True)
    platform = Platform(options.ram_size, options.num_cpus)
    bus, vgic = Bus(platform.events), Vgic(options.num_cpus)
    platform.new_guest(make_config(options), bus, vgic, options.realm).build()
    assert measure(capsys, "--realm", "-m", size) == platform.rim().hex()


def test_rim_of_the_machine_virt_is_predicted(capsys: Capture, tmp_path: Path) -> None:
    """Its RAM and its devices are elsewhere."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(0x1400_0000.to_bytes(4, "little") * 2000)
    options = VmOptions(machine="virt", kernel=kernel, ram_size=64 * MIB, is_realm=True)
    platform = Platform(options.ram_size, options.num_cpus)
    bus, vgic = Bus(platform.events), Vgic(options.num_cpus)
    platform.new_guest(make_config(options), bus, vgic, options.realm).build()
    given = ("--realm", "-m", "64M", "-k", str(kernel))
    predicted = measure(capsys, *given, "--machine", "virt")
    assert predicted == platform.rim().hex() != measure(capsys, *given)


def test_guest_may_be_larger_than_this_machine(capsys: Capture) -> None:
    """It is measured, but not run."""
    assert len(measure(capsys, "--realm", "-m", "512G")) == 64
    with pytest.raises(UserError, match="limit is 512G"):
        measure(capsys, "--realm", "-m", "513G")


def test_diff_names_the_first_step_that_differs(capsys: Capture, tmp_path: Path) -> None:
    """Other parameters change the device tree, more memory changes the RAM."""
    paths = [tmp_path / name for name in ("one", "other", "more")]
    save_log(capsys, paths[0])
    save_log(capsys, paths[1], "-p", "quiet")
    save_log(capsys, paths[2], "-m", "66M")
    arguments = ["measure", "--diff", str(paths[0])]
    assert measure(capsys, *arguments[1:], str(paths[0])) == "no difference"
    assert cli.main([*arguments, str(paths[1])], standalone_mode=False) == 1
    first, one, other = capsys.readouterr().out.splitlines()
    assert first == "step 34 is the first that differs:"
    assert one.startswith(f"{paths[0]}: DATA ")
    assert other.startswith(f"{paths[1]}: DATA ")
    assert one.endswith("(device tree)")
    assert cli.main([*arguments, str(paths[2])], standalone_mode=False) == 1
    assert "base=0x84000000 top=0x84200000" in capsys.readouterr().out


def test_diff_for_programs(capsys: Capture, tmp_path: Path) -> None:
    """Number and both sides of the step, or null."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    steps = save_log(capsys, whole)
    cut.write_text(json.dumps({"log": steps[:-1]}))
    assert json.loads(measure(capsys, "--json", "--diff", str(whole), str(whole))) is None
    arguments = ["measure", "--json", "--diff", str(whole), str(cut)]
    assert cli.main(arguments, standalone_mode=False) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == {"step": len(steps) - 1, "sides": [steps[-1], None]}


def test_diff_sees_what_one_log_lacks(capsys: Capture, tmp_path: Path) -> None:
    """If one log is shorter, it differs where it ends."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    steps = save_log(capsys, whole)
    cut.write_text(json.dumps({"log": steps[:-1]}))
    assert cli.main(["measure", "--diff", str(whole), str(cut)], standalone_mode=False) == 1
    assert f"{cut}: (none)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"log": 1}',
        b'{"log": [{}]}',
        b'{"log": [{"step": 1}]}',
        b'{"log": [{"step": "a", "step": "b"}]}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_diff_refuses_what_is_no_log(tmp_path: Path, content: bytes) -> None:
    """Whatever the file contains."""
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a measurement log: give the output of"):
        cli.main(["measure", "--diff", str(path), str(path)], standalone_mode=False)


def test_diff_survives_any_damage(capsys: Capture, tmp_path: Path, seed: int) -> None:
    """A log with a changed byte differs, or is rejected."""
    path, damaged = tmp_path / "log", tmp_path / "damaged"
    save_log(capsys, path)
    rng, data = random.Random(seed), path.read_bytes()
    for _ in range(50):
        at = rng.randrange(len(data))
        damaged.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
        try:
            code = cli.main(["measure", "--diff", str(path), str(damaged)], standalone_mode=False)
        except UserError:
            continue
        assert code in (0, 1)


def test_other_host_changes_the_first_step_only(capsys: Capture, tmp_path: Path) -> None:
    """Its features are in RmiRealmParams; the other steps extend the new value."""
    here = save_log(capsys, tmp_path / "here")
    there = save_log(capsys, tmp_path / "there", "--host", "num_bps=5,num_wps=3,sve_vl=3")
    assert number(there[0], "flags") == 2
    assert [number(there[0], name) for name in ("num_bps", "num_wps", "sve_vl")] == [5, 3, 3]
    assert rim_of(there, "sha256") != rim_of(here, "sha256")
    assert [{**step, "rim": ""} for step in there[1:]] == [{**step, "rim": ""} for step in here[1:]]
    same = measure(capsys, *SMALL, "--host", "num_bps=1,num_wps=1")
    assert same == here[-1]["rim"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "only a realm is measured: add --realm"),
        ("--realm --host cores=4", "--host cores=4: give num_bps=N"),
        ("--realm --host num_bps=many", "--host num_bps=many"),
        ("--realm --host num_bps=64", "the limit is 63"),
        ("--realm -k /no/such/kernel", "No such file"),
        ("--diff /no/such/log /no/such/log", "No such file"),
    ],
)
def test_a_mistake_is_told(capsys: Capture, arguments: str, complaint: str) -> None:
    """In one line with the remedy."""
    with pytest.raises(UserError, match=complaint):
        measure(capsys, *arguments.split())


def test_replay_wants_a_construction() -> None:
    """It begins with REALM_CREATE, which occurs once."""
    params = RealmParams()
    names = ("flags", "s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs", "hash_algo")
    create = RimExtension(0, "REALM_CREATE", tuple((n, getattr(params, n)) for n in names), b"")
    ripas = RimExtension(0, "RIPAS", (("base", 0), ("top", 4096)), b"")
    assert len(replay([create, ripas])) == 2
    for steps in ([ripas], [create, create]):
        with pytest.raises(ValueError, match="of a realm's construction"):
            replay(steps)
