"""Snapshots: what is saved comes back, and no file makes pyvmm fail."""

import hashlib
import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard

from pyvmm.arch.errors import UserError
from pyvmm.arch.gic import PPI_PMU
from pyvmm.arch.saved import Value
from pyvmm.core import PeContext
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.host.normal_vm import NormalVm
from pyvmm.platform import Platform
from pyvmm.vm import snapshot
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.boot import make_config, make_empty_config
from pyvmm.vm.memory_map import MIB
from pyvmm.vm.network_options import Mode, NetworkOptions
from pyvmm.vm.option_values import DiskOptions, VsockOptions
from pyvmm.vm.options import VmOptions, read_options
from pyvmm.vm.port_options import PortOptions
from pyvmm.vm.share_options import Protocol, parse_shares
from pyvmm.vm.snapshot import Header, SavedNetwork, Snapshot, new_file
from tests.cli.kernels import ECHO, ECHO_VIRT, kernel
from tests.devices.test_disk_qcow2 import create
from tests.waiting import wait_until

PREFACE = struct.Struct("<16sIIQQ32s")
ALL_DEVICES = {"has_rng": True, "has_balloon": True, "has_watchdog": True, "wants_agent": True}


def save(instance: Instance, path: Path) -> None:
    """Save a guest as `pyvmm snapshot` does."""
    with new_file(path) as file:
        instance.save(file)


def saved_echo(directory: Path, **options: object) -> Path:
    """Save a guest that answers each byte with the same, after it has answered some."""
    path, disk, home = directory / "snapshot", directory / "disk", directory / "home"
    disk.write_bytes(bytes(4096))
    home.mkdir()
    text = ECHO_VIRT if options.get("machine") == "virt" else ECHO
    devices: dict[str, object] = {"disks": (DiskOptions(disk),), "ram_size": 64 * MIB} | options
    vm = VmOptions(kernel=kernel(directory, text), **devices)  # type: ignore[arg-type]
    instance = Instance(vm, make_config(vm), Platform(vm.ram_size, vm.num_cpus), home=home)
    instance.build()
    instance.start()
    try:
        echo(instance, b"before")
        instance.pause()
        instance.type(b"typed")  # while it stands still
        save(instance, path)
    finally:
        instance.quit()
        instance.wait()
        instance.close()
    return path


def echo(instance: Instance, text: bytes) -> None:
    """Type, and wait for the answer."""
    instance.type(text)
    wait_until(lambda: instance.console_log.tail().endswith(text))


def vcpu(instance: Instance) -> PeContext:
    """Return the context of a guest's first vCPU."""
    return guest_of(instance).contexts[0]


def guest_of(instance: Instance) -> NormalVm:
    """Return the guest of an instance."""
    guest = instance._guest
    assert isinstance(guest, NormalVm)
    return guest


def restored(path: Path, *networks: str, **others: object) -> Instance:
    """Build a guest from a snapshot, with what is connected to it."""
    source = Snapshot(path)
    given = {"restore": path, "networks": networks, **others}
    options = source.options(read_options(given, is_run=True))
    platform, home = Platform(options.ram_size, options.num_cpus), path.parent / "home"
    instance = Instance(options, make_empty_config(options), platform, home=home, snapshot=source)
    try:
        instance.build()
    except BaseException:
        instance.close()
        raise
    return instance


@pytest.fixture(scope="module", params=["kvmtool", "virt"])
def saved(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Save a guest with all devices that can be saved: on either machine, by either bus."""
    directory = tmp_path_factory.mktemp("saved")
    buses = {"machine": "virt", "transport": "pci"} if request.param == "virt" else {}
    return saved_echo(directory, num_cpus=2, **ALL_DEVICES, **buses)


@pytest.mark.parametrize("num_cpus", [1, 2])
@pytest.mark.parametrize(
    "devices",
    [{}, ALL_DEVICES, ALL_DEVICES | {"transport": "pci"}, {"machine": "virt"}],
    ids=["few", "all", "pci", "virt"],
)
def test_a_guest_continues_as_often_as_one_likes(
    tmp_path: Path, num_cpus: int, devices: dict[str, object]
) -> None:
    """With its console, the input that it had not read, its counter, and its memory."""
    path = saved_echo(tmp_path, num_cpus=num_cpus, **devices)
    counter = Snapshot(path).header.counter
    for _ in range(2):
        instance = restored(path)
        assert instance.console_log.tail() == b"before"
        assert instance._platform.counter.read() >= counter
        instance.start()
        wait_until(lambda instance=instance: instance.console_log.tail() == b"beforetyped")  # type: ignore[misc]
        echo(instance, b"after")
        instance.type(b"\x04")
        assert instance.wait(60) is ExitCode.OK
        instance.close()


def test_performance_monitors_continue(tmp_path: Path) -> None:
    """With their counters, an overflow that the guest has not handled, and as many as it had."""
    vm = VmOptions(kernel=kernel(tmp_path, ECHO), ram_size=64 * MIB, has_pmu=True, num_counters=4)
    instance = Instance(vm, make_config(vm), Platform(vm.ram_size, vm.num_cpus))
    instance.build()
    context = vcpu(instance)
    context.pmcr, context.pmcntenset, context.pmccntr = 1, 1 << 31, 1 << 40
    context.pmovsset = context.pmintenset = 1 << 3
    context.pmevtyper[3], context.pmevcntr[3] = 8, 77
    instance.start()
    echo(instance, b"before")
    instance.pause()
    cycles = context.pmccntr
    assert cycles > 1 << 40
    save(instance, tmp_path / "snapshot")
    instance.quit()
    instance.wait()
    instance.close()
    instance = restored(tmp_path / "snapshot")
    context = vcpu(instance)
    assert (context.mdcr_el2, context.pmccntr, context.pmovsset) == (4, cycles, 1 << 3)
    assert (context.pmevtyper[3], context.pmevcntr[3]) == (8, 77)
    instance.start()
    echo(instance, b"after")
    instance.pause()
    assert context.pmccntr > cycles
    assert guest_of(instance)._vgic.cpus[0].private.line >> PPI_PMU & 1
    instance.quit()
    instance.wait()
    instance.close()


def test_a_network_card_is_connected_again(tmp_path: Path) -> None:
    """To another network of the same kind; the snapshot determines the card itself."""
    mac = bytes.fromhex("020000000001")
    card = NetworkOptions(mode=Mode.SOCKET, listen=tmp_path / "one", mac=mac, mtu=1400)
    path = saved_echo(tmp_path, networks=(card,))
    instance = restored(path, f"mode=socket,listen={tmp_path / 'two'}")
    (device,) = (each for each in instance.board.devices.values() if isinstance(each, VirtioNet))
    assert (device.mac, device.mtu, (tmp_path / "two").is_socket()) == (mac, 1400, True)
    instance.start()
    echo(instance, b"after")
    instance.close()
    for given, complaint in (
        ((), "has 1 network cards: give each with -n, in the same order"),
        (("mode=user", "mode=user"), "has 1 network cards: give each with -n"),
        (("mode=user",), "was made with -n mode=socket: give the same"),
    ):
        with pytest.raises(UserError, match=complaint):
            restored(path, *given)
    header = Snapshot(path).header
    for wrong in (
        SavedNetwork("user", b"mac", 0, 0),
        SavedNetwork("user", mac, -1, 0),
        SavedNetwork("user", mac, 0, 17),
    ):
        options = msgspec.structs.replace(header.options, networks=[wrong])
        rewrite(path, tmp_path / "wrong", msgspec.structs.replace(header, options=options))
        with pytest.raises(UserError, match="damaged"):
            restored(tmp_path / "wrong", "mode=user")


def test_a_vsock_and_ports_are_connected_again(tmp_path: Path) -> None:
    """The vsock with any CID; the ports with any sockets, but by the same names."""
    ports = (PortOptions("one", tmp_path / "first"), PortOptions("two", tmp_path / "second"))
    path = saved_echo(tmp_path, ports=ports, vsock=VsockOptions())
    sockets = [tmp_path / "third", tmp_path / "fourth"]
    given = tuple(f"{each.name}={socket}" for each, socket in zip(ports, sockets, strict=True))
    instance = restored(path, ports=given, vsock="77")
    assert instance.board.vsock is not None
    assert instance.board.vsock.cid == 77
    assert all(each.is_socket() for each in sockets)
    instance.start()
    echo(instance, b"after")
    instance.close()
    instance = restored(path, ports=given)
    assert instance.board.vsock is not None
    instance.close()
    for wrong in ((), given[:1], given[::-1]):
        with pytest.raises(UserError, match="these ports: --port one=SOCKET --port two=SOCKET"):
            restored(path, ports=wrong)
    without = tmp_path / "without"
    without.mkdir()
    path = saved_echo(without)
    with pytest.raises(UserError, match="has no vsock: omit --vsock"):
        restored(path, vsock="77")
    with pytest.raises(UserError, match="these ports: none"):
        restored(path, ports=given)


def test_a_qcow2_disk_is_restored_in_its_format(tmp_path: Path) -> None:
    """With its backing file; a copy may have another name."""
    base, image = create(tmp_path / "base"), tmp_path / "image"
    create(image, backing=str(base))
    disk = DiskOptions(image, format="qcow2", backing=base)
    path = saved_echo(tmp_path, disks=(disk,))
    copy = tmp_path / "copy"
    shutil.copy2(image, copy)
    source = Snapshot(path)
    (found,) = source.options(VmOptions(disks=(DiskOptions(copy, is_snapshot=True),))).disks
    assert (found.path, found.format, found.backing) == (copy, "qcow2", base)
    instance = restored(path)
    instance.start()
    echo(instance, b"after")
    instance.close()
    header = source.header
    wrong = msgspec.structs.replace(header.disks[0], format="vmdk")
    rewrite(path, tmp_path / "wrong", msgspec.structs.replace(header, disks=[wrong]))
    with pytest.raises(UserError, match="damaged"):
        restored(tmp_path / "wrong")


def test_a_restored_guest_can_be_saved_again(tmp_path: Path) -> None:
    """From a snapshot to the next one."""
    path = saved_echo(tmp_path)
    instance = restored(path)
    instance.start()
    echo(instance, b"more")
    instance.pause()
    save(instance, path)
    instance.quit()
    instance.wait()
    instance.close()
    instance = restored(path)
    assert instance.console_log.tail() == b"beforetypedmore"
    instance.close()


def test_memory_is_saved_where_it_is_used(saved: Path) -> None:
    """A file of some KiB, for the pages of 64 MiB that the guest has written."""
    pieces = Snapshot(saved).header.pieces
    assert sum(size for _, size, _, _ in pieces) <= 4 * MIB
    assert saved.stat().st_size < MIB
    assert saved.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_has_changed_is_refused(tmp_path: Path) -> None:
    """A copy from that time is accepted."""
    path = saved_echo(tmp_path)
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    copy.write_bytes(disk.read_bytes())
    times = disk.stat().st_atime_ns, disk.stat().st_mtime_ns
    os.utime(copy, ns=times)
    os.utime(disk, ns=(0, 0))
    source = Snapshot(path)
    with pytest.raises(UserError, match="has changed since the snapshot: give a copy"):
        source.options(VmOptions())
    options = source.options(VmOptions(disks=(DiskOptions(copy),)))
    assert options.disks[0].path == copy
    assert options.disks[0].serial == source.header.disks[0].serial != ""
    with pytest.raises(UserError, match="has 1 disks: give copies of all"):
        source.options(VmOptions(disks=(DiskOptions(copy), DiskOptions(disk))))
    disk.unlink()
    with pytest.raises(UserError, match=r"No such file.*: give a copy"):
        source.options(VmOptions())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no snapshot, or is damaged"),
        (b"text " * 100, "it begins differently"),
        (PREFACE.pack(b"pyvmm snapshot\r\n", 2, 0, 0, 0, b""), "has version 2; this pyvmm reads 4"),
        (
            PREFACE.pack(b"pyvmm snapshot\r\n", 4, 0, 0, 0, b""),
            "a header of 0 bytes",
        ),
        (
            PREFACE.pack(b"pyvmm snapshot\r\n", 4, 0, 1 << 63, 1, b""),
            "a header of 1 bytes",
        ),
        (PREFACE.pack(b"pyvmm snapshot\r\n", 4, 0, 0, 64, b""), "another digest"),
    ],
)
def test_what_is_no_snapshot_is_a_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    """With what to do."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        Snapshot(path)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="check the path"):
            Snapshot(wrong)


def test_damage_is_noticed(saved: Path, tmp_path: Path, seed: int) -> None:
    """Wherever a bit is flipped, and wherever the file ends."""
    rng, data = random.Random(seed), saved.read_bytes()
    path = tmp_path / "damaged"
    for number in range(40):
        damaged = bytearray(data)
        at = rng.randrange(len(data))
        if number % 4:
            damaged[at] ^= 1 << rng.randrange(8)
        else:
            del damaged[at:]
        if bytes(damaged[20:24]) != data[20:24]:
            continue  # the only bytes without a meaning
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|version"):
            restored(path).close()


LIST: list[Value] = [1, 2]
MAP: dict[str, Value] = {"a": 1}
JUNK: tuple[Value, ...] = (
    *(0, 1, -1, 255, 1 << 16, 1 << 31, 1 << 32, (1 << 64) - 1, -(1 << 63)),
    *(1.5, float("nan"), True, None, "", "text", b"", b"\xff" * 200, LIST, MAP, [], {}),
)


def spoil(rng: random.Random, value: Value) -> Value:
    """Return a value in which something is another, or is missing."""
    if isinstance(value, dict) and value:
        name = rng.choice(list(value))
        if rng.random() < 0.05:
            return {each: value[each] for each in value if each != name}
        return value | {name: spoil(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], spoil(rng, value[at]), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return rng.choice((value ^ 1 << rng.randrange(63), rng.getrandbits(64), value + 1))
    return rng.choice(JUNK)


def rewrite(source: Path, path: Path, header: Header) -> None:
    """Write a snapshot with the memory of another one, and a header with its digest."""
    data = source.read_bytes()
    magic, version, _, place, _, _ = PREFACE.unpack_from(data)
    packed = zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(header))
    digest = hashlib.sha256(packed).digest()
    preface = PREFACE.pack(magic, version, 0, place, len(packed), digest)
    path.write_bytes(preface + data[PREFACE.size : place] + packed)


def spoilt_headers(header: Header, rng: random.Random, count: int) -> Iterator[Header]:
    """Yield headers with one to three wrong values in the states."""
    for _ in range(count):
        wrong = header
        for _ in range(rng.randrange(1, 4)):
            kind = rng.choice(("gic", "devices", "devices", "agent", "vcpus", "counter"))
            if kind == "counter":
                new: object = rng.choice((-1, 0, 1 << 62, (1 << 64) - 1))
            elif kind == "vcpus":
                each = [msgspec.msgpack.decode(raw) for raw in wrong.vcpus]
                spoilt = spoil(rng, each)
                states = spoilt if isinstance(spoilt, list) else []
                new = [msgspec.Raw(msgspec.msgpack.encode(state)) for state in states]
            else:
                state = msgspec.msgpack.decode(getattr(wrong, kind))
                new = msgspec.Raw(msgspec.msgpack.encode(spoil(rng, state)))
            wrong = msgspec.structs.replace(wrong, **{kind: new})
        yield wrong


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)], ids=str)
def test_a_made_up_state_is_refused_or_is_a_guest(
    saved: Path, tmp_path: Path, seed: int, count: int
) -> None:
    """Of one line at most; a guest with such a state ends like any other."""
    header, rng, path = Snapshot(saved).header, random.Random(seed), tmp_path / "made-up"
    num_refused = 0
    for wrong in spoilt_headers(header, rng, count):
        rewrite(saved, path, wrong)
        try:
            instance = restored(path)
        except UserError:
            num_refused += 1
            continue
        instance.start()
        instance.type(b"x")
        instance.wait(0.02)
        instance.close()
    assert 0 < num_refused < count


def test_a_made_up_machine_is_refused(saved: Path, tmp_path: Path) -> None:
    """Sizes that no machine has, and more memory than it says."""
    header, path = Snapshot(saved).header, tmp_path / "made-up"
    options = header.options
    wrong: list[Header] = [
        msgspec.structs.replace(header, options=msgspec.structs.replace(options, **{name: value}))
        for name, value in (
            *(("ram_size", each) for each in (-1, 0, 4097, 1 << 62)),
            *(("num_cpus", each) for each in (-1, 0, 17)),
            *(("console", "hv"), ("cpu_features", 1 << 40), ("cpu_features", -1)),
            *(("num_counters", each) for each in (-1, 7)),
            *(("machine", "q35"), ("transport", "ccw"), ("irqchip", "gicv2")),
        )
    ]
    ipa, size, stored, crc = header.pieces[0]
    impossible = [
        [(0, size, stored, crc)],
        [(ipa, size, stored, crc)] * 1000,
        [(ipa, -1, stored, crc)],
        [(ipa, size, 1 << 40, crc)],
        [(ipa, size, -1, crc)],
        [(ipa, size + 1, stored, crc)],
        [(ipa, size, stored, crc + 1)],
        [(1 << 63, size, stored, crc)],
    ]
    wrong += [msgspec.structs.replace(header, pieces=pieces) for pieces in impossible]
    for each in wrong:
        rewrite(saved, path, each)
        with pytest.raises(UserError, match="damaged"):
            restored(path).close()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"machine": "virt", "firmware": Path("edk2.fd")}, "--firmware"),
        ({"shares": parse_shares(Protocol.P9, ["/,tag"])}, "a shared directory"),
        ({"disks": (DiskOptions(Path("disk"), is_snapshot=True),)}, "a disk that keeps nothing"),
    ],
)
def test_what_cannot_be_saved_is_a_line(options: dict[str, object], what: str) -> None:
    """It says what to omit."""
    with pytest.raises(UserError, match=f"a guest with {what} cannot be saved: create it without"):
        snapshot.SavedOptions.of(VmOptions(**options))  # type: ignore[arg-type]
