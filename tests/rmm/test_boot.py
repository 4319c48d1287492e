"""The boot handshake, the dispatch of commands, and the commands that need no realm."""

from struct import pack, pack_into

import pytest

from pyvmm.arch import rmmd
from pyvmm.arch.events import Event
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmi import RmiFeatureRegister0, RmiFid
from pyvmm.arch.rmmd import BootError
from pyvmm.arch.rsi import RsiFid
from rmm.commands import rmi_command
from rmm.rmi import REVISIONS, RMI_1_0
from rmm.rmm import Rmm
from tests.rmm.world import (
    DRAM_BASE,
    DRAM_SIZE,
    NUM_PES,
    SHARED_PA,
    FakeEl3,
    FakeMachine,
    World,
    boot_manifest,
)

UNKNOWN = (1 << 64) - 1
VERSION = rmmd.INTERFACE_VERSION


def unbooted(manifest: bytes | bytearray) -> Rmm:
    """Make an RMM that has not booted."""
    machine = FakeMachine()
    machine.memory(Pas.REALM).write(SHARED_PA, manifest)
    return Rmm(machine, FakeEl3(machine), REVISIONS)


def poke(offset: int, value: int) -> bytearray:
    """Make a manifest with one word changed."""
    manifest = boot_manifest()
    manifest[offset : offset + 8] = value.to_bytes(8, "little")
    return manifest


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ((0, VERSION, NUM_PES, SHARED_PA), BootError.OK),
        ((0, VERSION + 5, NUM_PES, SHARED_PA), BootError.OK),
        ((0, VERSION - 1, NUM_PES, SHARED_PA), BootError.VERSION_MISMATCH),
        ((0, VERSION + 0x10000, NUM_PES, SHARED_PA), BootError.VERSION_MISMATCH),
        ((0, VERSION, 0, SHARED_PA), BootError.CPUS_OUT_OF_RANGE),
        ((0, VERSION, 1 << 20, SHARED_PA), BootError.CPUS_OUT_OF_RANGE),
        ((NUM_PES, VERSION, NUM_PES, SHARED_PA), BootError.CPU_ID_OUT_OF_RANGE),
        ((-1, VERSION, NUM_PES, SHARED_PA), BootError.CPU_ID_OUT_OF_RANGE),
        ((0, VERSION, NUM_PES, SHARED_PA + 8), BootError.INVALID_SHARED_BUFFER),
        ((0, VERSION, NUM_PES, DRAM_BASE), BootError.INVALID_SHARED_BUFFER),
    ],
)
def test_boot_checks_its_arguments(args: tuple[int, int, int, int], status: BootError) -> None:
    """Each wrong argument has its own status, and the RMM then serves no calls."""
    rmm = unbooted(boot_manifest())
    assert rmm.boot(*args) == status
    served = rmm.handle(0, RmiFid.RMI_VERSION, (0x1_0000,))[0] == 0
    assert served == (status is BootError.OK)


@pytest.mark.parametrize(
    ("manifest", "status"),
    [
        (poke(0, 2), BootError.MANIFEST_VERSION),
        (poke(0, 1 << 16 | 3), BootError.MANIFEST_VERSION),
        (poke(0x10, 0), BootError.MANIFEST_DATA),
        (poke(0x10, 1 << 60), BootError.MANIFEST_DATA),
        (poke(0x18, SHARED_PA - 16), BootError.MANIFEST_DATA),
        (poke(0x18, SHARED_PA + 0xFF8), BootError.MANIFEST_DATA),
        (poke(0x20, 1), BootError.MANIFEST_DATA),
        (poke(rmmd.BANKS_OFFSET, DRAM_BASE + 1), BootError.MANIFEST_DATA),
    ],
)
def test_boot_checks_the_manifest(manifest: bytearray, status: BootError) -> None:
    """EL3's data are checked, too: version, place and checksum."""
    assert unbooted(manifest).boot(0, VERSION, NUM_PES, SHARED_PA) == status


def manifest_of(
    banks: tuple[tuple[int, int], ...] = ((DRAM_BASE, DRAM_SIZE),),
    consoles: tuple[int, ...] = (),
    console_offset: int = 0x800,
) -> bytearray:
    """Make a manifest whose sums are right: banks, and the words of consoles."""
    manifest = boot_manifest()
    for at, offset, count, words in (
        (0x10, rmmd.BANKS_OFFSET, len(banks), [word for bank in banks for word in bank]),
        (0x28, console_offset, len(consoles) // 6, consoles),
    ):
        header = [count, SHARED_PA + offset if count else 0]
        header.append(-sum((*header, *words)) & (1 << 64) - 1)
        pack_into("<3Q", manifest, at, *header)
        pack_into(f"<{len(words)}Q", manifest, offset, *words)
    return manifest


CONSOLE = (0x900_0000, 1, int.from_bytes(b"pl011\0\0\0", "little"), 24_000_000, 115_200, 0)


@pytest.mark.parametrize(
    "banks",
    [
        ((DRAM_BASE, 0x1000), (DRAM_BASE, 0x1000)),
        ((DRAM_BASE, 0x1000), (DRAM_BASE - 0x1000, 0x1000)),
        ((DRAM_BASE, 0x800), (DRAM_BASE + 0x1000, 0x1000)),
        ((DRAM_BASE, 0x1000), (DRAM_BASE + 0x1800, 0x1000)),
        ((DRAM_BASE, 0), (DRAM_BASE + 0x1000, 0x1000)),
        ((DRAM_BASE, 0x1000), (DRAM_BASE + (1 << 45), 0x1000)),
        (),
    ],
)
def test_boot_checks_the_banks(banks: tuple[tuple[int, int], ...]) -> None:
    """Banks ascend, are whole granules and do not overlap; there is at least one."""
    status = unbooted(manifest_of(banks)).boot(0, VERSION, NUM_PES, SHARED_PA)
    assert status == BootError.MANIFEST_DATA


def test_boot_takes_several_banks_and_consoles() -> None:
    """Gaps between banks are not memory; consoles are checked but not used."""
    banks = ((DRAM_BASE, 0x2000), (DRAM_BASE + 0x3000, 0x1000))
    rmm = unbooted(manifest_of(banks, CONSOLE * 2))
    assert rmm.boot(0, VERSION, NUM_PES, SHARED_PA) == BootError.OK
    pas = range(DRAM_BASE - 0x1000, DRAM_BASE + 0x5000, 0x1000)
    delegated = [rmm.handle(0, RmiFid.RMI_GRANULE_DELEGATE, (pa,))[0] for pa in pas]
    assert delegated == [1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("offset", [0x38, 0x84, 0x1000 - 88, 0x1000, 1 << 60])
def test_boot_checks_where_the_consoles_are(offset: int) -> None:
    """Behind the header, aligned, inside the page."""
    manifest = manifest_of(consoles=CONSOLE * 2)
    header = [2, SHARED_PA + offset, 0]
    header[2] = -sum((*header, *CONSOLE, *CONSOLE)) & (1 << 64) - 1
    pack_into("<3Q", manifest, 0x28, *header)
    room = manifest[offset : offset + 96]
    manifest[offset : offset + len(room)] = pack("<12Q", *CONSOLE, *CONSOLE)[: len(room)]
    status = unbooted(manifest).boot(0, VERSION, NUM_PES, SHARED_PA)
    assert status == BootError.MANIFEST_DATA


@pytest.mark.parametrize(
    ("at", "value"),
    [(0x28, 1), (0x30, SHARED_PA + 0x800), (0x38, 1), (0x800, 1), (0x10, 2), (0x18, 0), (0x18, 1)],
)
def test_boot_checks_the_sums(at: int, value: int) -> None:
    """Count, address, checksum and array add up to zero, for each of the two lists."""
    manifest = manifest_of(consoles=() if at in {0x28, 0x30, 0x38} else CONSOLE)
    pack_into("<Q", manifest, at, value)
    status = unbooted(manifest).boot(0, VERSION, NUM_PES, SHARED_PA)
    assert status == BootError.MANIFEST_DATA


def test_warm_boot_of_the_other_pes(world: World) -> None:
    """Each PE boots; its index and their number must fit the first boot."""
    assert world.rmm.boot(3, VERSION, NUM_PES, SHARED_PA) == BootError.OK
    assert world.rmm.boot(4, VERSION, NUM_PES, SHARED_PA) == BootError.CPU_ID_OUT_OF_RANGE
    assert world.rmm.boot(1, VERSION, 2, SHARED_PA) == BootError.CPUS_OUT_OF_RANGE


def test_version(world: World) -> None:
    """Both revisions are always given; only 1.0 is served."""
    assert world.call(RmiFid.RMI_VERSION, 0x1_0000) == (0, 0x1_0000, 0x1_0000, 0, 0)
    for req in (0, 0x1_0001, 0x2_0000, 1 << 32 | 0x1_0000):
        assert world.call(RmiFid.RMI_VERSION, req) == (1, 0x1_0000, 0x1_0000, 0, 0)


def test_a_later_revision_is_another_table(world: World) -> None:
    """The host selects the revision with RMI_VERSION, which returns both."""

    @rmi_command(RmiFid.RMI_REALM_ACTIVATE)  # in that revision another function
    def other(_rmm: Rmm, rd: int) -> tuple[int, ...]:
        return (rd + 1,)

    added = {0xC400_0156: other, int(RmiFid.RMI_REALM_ACTIVATE): other}
    world.rmm.revisions = {0x1_0000: RMI_1_0, 0x1_0001: RMI_1_0 | added}
    assert world.call(RmiFid.RMI_VERSION, 0x2_0000) == (1, 0x1_0000, 0x1_0001, 0, 0)
    assert world.call(0xC400_0156, 5)[0] == UNKNOWN
    assert world.call(RmiFid.RMI_VERSION, 0x1_0001) == (0, 0x1_0000, 0x1_0001, 0, 0)
    assert world.call(0xC400_0156, 5) == (0, 6, 0, 0, 0)
    assert world.call(RmiFid.RMI_REALM_ACTIVATE, 5) == (0, 6, 0, 0, 0)
    assert world.call(RmiFid.RMI_VERSION, 0x2_0000)[0] == 1  # which changes nothing
    assert world.call(0xC400_0156, 5)[0] == 0
    assert world.call(RmiFid.RMI_VERSION, 0x1_0000)[0] == 0
    assert world.call(0xC400_0156, 5)[0] == UNKNOWN
    assert world.call(RmiFid.RMI_REALM_ACTIVATE, 5)[0] == 1


def test_features(world: World) -> None:
    """Register 0 tells the machine's limits, all others are zero."""
    value = RmiFeatureRegister0(world.do(RmiFid.RMI_FEATURES, 0)[0])
    assert (value.S2SZ, value.NUM_BPS, value.NUM_WPS, value.GICV3_NUM_LRS) == (48, 5, 3, 3)
    assert value.HASH_SHA_256
    assert value.HASH_SHA_512
    assert not any((value.LPA2, value.SVE_EN))
    assert (value.PMU_EN, value.PMU_NUM_CTRS) == (True, 6)
    assert world.call(RmiFid.RMI_FEATURES, 1) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("fid", [0, 0xC400_0156, 0xC400_0160, 0xC400_018F, RsiFid.RSI_VERSION])
def test_unknown_function_ids_answer_minus_one(world: World, fid: int) -> None:
    """The answer of SMCCC for a function that does not exist."""
    assert world.call(fid, 1, 2, 3)[0] == UNKNOWN


def test_sve_hint_is_not_part_of_the_name(world: World) -> None:
    """SMCCC: bit 16 of the function id is a hint."""
    assert world.call(RmiFid.RMI_VERSION | 1 << 16, 0x1_0000)[0] == 0


def test_missing_arguments_are_zero(world: World) -> None:
    """A caller may leave out registers."""
    assert world.rmm.handle(0, RmiFid.RMI_FEATURES, ()) == world.rmm.handle(
        0, RmiFid.RMI_FEATURES, (0,)
    )


def test_commands_are_events(world: World) -> None:
    """A trace line has the command's own parameter names and its result."""
    seen: list[Event] = []
    world.rmm.events.listener = seen.append
    pa = world.ns_granule()
    world.call(RmiFid.RMI_GRANULE_DELEGATE, pa)
    world.call(RmiFid.RMI_RTT_CREATE, 1, 2, 3, 2)
    assert [str(event) for event in seen] == [
        f"GRANULE pa={pa:#x} UNDELEGATED -> DELEGATED",
        f"RMI_GRANULE_DELEGATE addr={pa:#x} -> SUCCESS",
        "RMI_RTT_CREATE rd=0x1 rtt=0x2 ipa=0x3 level=2 -> ERROR_INPUT",
    ]
