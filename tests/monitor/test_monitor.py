"""EL3: who may call what, what a transition does, and how the RMM boots."""

import struct

import pytest

from monitor.monitor import Monitor
from pyvmm.arch import rmmd
from pyvmm.arch.bits import MASK64
from pyvmm.arch.events import Event, EventStream, GptChange, Smc, WorldSwitch
from pyvmm.arch.gpt import GPCCR_EL3, Gpi
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmmd import RmmdError, RmmdFid
from pyvmm.arch.smccc import SmcccFid
from tests.monitor.conftest import DRAM_BASE, DRAM_SIZE, FakeMachine, FakeRmm

RMI_VERSION = 0xC400_0150
PA = DRAM_BASE + 0x10_0000


NO_FUNCTION = (MASK64, 0, 0, 0)  # x0 to x3 after a call of an unknown function


def error(code: RmmdError) -> tuple[int, ...]:
    """Return x0 to x3 after a refused call."""
    return (code & MASK64, 0, 0, 0)


def test_delegate_moves_the_granule_in_a_safe_order(machine: FakeMachine, monitor: Monitor) -> None:
    """GPT, then no stale translation, then the old contents are dropped."""
    el3 = monitor.conduit(Pas.REALM)
    assert el3.smc(0, (RmmdFid.GTSI_DELEGATE, PA)) == (0, 0, 0, 0)
    assert monitor.gpi(PA) is Gpi.REALM
    assert machine.log == [("tlbi", PA, 4096), ("punch NS", PA, 4096)]
    machine.log.clear()
    assert el3.smc(0, (RmmdFid.GTSI_UNDELEGATE, PA)) == (0, 0, 0, 0)
    assert monitor.gpi(PA) is Gpi.NS
    assert machine.log == [("tlbi", PA, 4096), ("punch REALM", PA, 4096)]


@pytest.mark.parametrize(
    ("pa", "expected"),
    [
        pytest.param(PA + 1, RmmdError.BAD_ADDR, id="unaligned"),
        pytest.param(0, RmmdError.BAD_ADDR, id="below DRAM"),
        pytest.param(DRAM_BASE + DRAM_SIZE, RmmdError.BAD_ADDR, id="above DRAM"),
        pytest.param(DRAM_BASE + DRAM_SIZE - 4096, RmmdError.BAD_ADDR, id="Root"),
        pytest.param(MASK64 & ~0xFFF, RmmdError.BAD_ADDR, id="far away"),
    ],
)
@pytest.mark.parametrize("fid", [RmmdFid.GTSI_DELEGATE, RmmdFid.GTSI_UNDELEGATE])
def test_transition_changes_nothing_when_the_address_is_bad(
    machine: FakeMachine, monitor: Monitor, fid: RmmdFid, pa: int, expected: RmmdError
) -> None:
    """Only whole granules of delegable DRAM move."""
    assert monitor.conduit(Pas.REALM).smc(0, (fid, pa)) == error(expected)
    assert machine.log == []
    assert monitor.leak_check() == []


def test_rmm_cannot_give_its_own_memory_away(machine: FakeMachine, monitor: Monitor) -> None:
    """The RMM's image is Realm, but reserved."""
    answer = monitor.conduit(Pas.REALM).smc(0, (RmmdFid.GTSI_UNDELEGATE, monitor.layout.shared_pa))
    assert answer == error(RmmdError.BAD_ADDR)
    assert machine.log == []


def test_transition_is_refused_when_the_granule_is_in_another_space(
    machine: FakeMachine, monitor: Monitor
) -> None:
    """Delegating twice, or undelegating what is Non-secure, is BAD_PAS without effect."""
    el3 = monitor.conduit(Pas.REALM)
    assert el3.smc(0, (RmmdFid.GTSI_UNDELEGATE, PA)) == error(RmmdError.BAD_PAS)
    assert machine.log == []
    el3.smc(0, (RmmdFid.GTSI_DELEGATE, PA))
    machine.log.clear()
    assert el3.smc(0, (RmmdFid.GTSI_DELEGATE, PA)) == error(RmmdError.BAD_PAS)
    assert machine.log == []


@pytest.mark.parametrize("security", [Pas.NS, Pas.SECURE, Pas.ROOT])
@pytest.mark.parametrize("fid", [f for f in RmmdFid if f is not RmmdFid.UNKNOWN])
def test_only_the_rmm_reaches_el3_services(
    monitor: Monitor, machine: FakeMachine, security: Pas, fid: RmmdFid
) -> None:
    """A normal-world call of a Realm service is an unknown function."""
    monitor.boot(FakeRmm())
    assert monitor.conduit(security).smc(0, (fid, PA)) == NO_FUNCTION
    assert machine.log == []


def test_rmi_reaches_the_rmm_when_the_normal_world_calls(monitor: Monitor) -> None:
    """x1.. go in, x0.. come out; the SVE hint is not part of the function id."""
    monitor.boot(FakeRmm())
    host = monitor.conduit(Pas.NS)
    assert host.smc(1, (RMI_VERSION, 7, 8)) == (0, 1, RMI_VERSION, 7, 8)
    assert host.smc(1, (RMI_VERSION | 1 << 16,)) == (0, 1, RMI_VERSION, 0)


@pytest.mark.parametrize(
    ("security", "call", "results"),
    [
        pytest.param(Pas.NS, (RMI_VERSION, 1), (0, 0, RMI_VERSION), id="RMI"),
        pytest.param(Pas.NS, (SmcccFid.SMCCC_VERSION,), (0x1_0002,), id="SMCCC"),
        pytest.param(Pas.NS, (0xC400_014F,), (MASK64,), id="unknown to the host"),
        pytest.param(Pas.REALM, (RmmdFid.GTSI_DELEGATE, PA), (0,), id="GTSI"),
        pytest.param(Pas.REALM, (RmmdFid.GTSI_DELEGATE, 1), error(RmmdError.BAD_ADDR), id="bad"),
        pytest.param(Pas.REALM, (RmmdFid.EL3_FEATURES, 0), (0, 0), id="features"),
        pytest.param(Pas.SECURE, (RMI_VERSION,), (MASK64,), id="unknown to Secure"),
    ],
)
def test_registers_without_a_result_are_kept_from_x4_on(
    monitor: Monitor, security: Pas, call: tuple[int, ...], results: tuple[int, ...]
) -> None:
    """SMCCC 1.2: x1 to x3 are the call's, x4 to x17 the caller's unless they are results."""
    monitor.boot(FakeRmm(num_results=3))
    given = (*call, *range(100 + len(call), 118))
    expected = (*results, *[0] * (4 - len(results)), *given[4:])
    assert monitor.conduit(security).smc(0, given) == expected


def test_results_beyond_x3_are_kept(monitor: Monitor) -> None:
    """x4 is a result here, x5 is not."""
    monitor.boot(FakeRmm())
    answer = monitor.conduit(Pas.NS).smc(1, (RMI_VERSION, 7, 8, 9, 10, 11))
    assert answer == (0, 1, RMI_VERSION, 7, 8, 9, 10, 11)


@pytest.mark.parametrize("high", [1 << 32, 0xABCD << 48, MASK64 << 32 & MASK64])
def test_function_id_is_w0(monitor: Monitor, high: int) -> None:
    """SMCCC: the upper half of x0 is ignored."""
    monitor.boot(FakeRmm())
    assert monitor.conduit(Pas.NS).smc(0, (high | RMI_VERSION, 7)) == (0, 0, RMI_VERSION, 7)
    assert monitor.conduit(Pas.REALM).smc(0, (high | RmmdFid.GTSI_DELEGATE, PA)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("fid", "args", "expected"),
    [
        (RmmdFid.EL3_FEATURES, (0,), (0, 0, 0, 0)),  # EL3 signs no tokens
        (RmmdFid.EL3_FEATURES, (), (0, 0, 0, 0)),
        (RmmdFid.EL3_FEATURES, (1,), error(RmmdError.INVAL)),
        (RmmdFid.EL3_FEATURES, (MASK64,), error(RmmdError.INVAL)),
        (RmmdFid.EL3_TOKEN_SIGN, (1, 0, 0), error(RmmdError.UNK)),
        *((fid, (), NO_FUNCTION) for fid in range(0xC400_01B6, 0xC400_01CF)),  # MEC, IDE, reserved
    ],
)
def test_el3_reports_its_features_to_the_rmm(
    monitor: Monitor, fid: int, args: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Only feature register 0 exists, and it is zero; later interfaces' calls are unknown."""
    assert monitor.conduit(Pas.REALM).smc(0, (fid, *args)) == expected


@pytest.mark.parametrize("security", [Pas.SECURE, Pas.REALM, Pas.ROOT])
def test_rmi_is_unknown_when_another_world_calls(monitor: Monitor, security: Pas) -> None:
    """RMI is for the normal world."""
    monitor.boot(FakeRmm())
    assert monitor.conduit(security).smc(0, (RMI_VERSION,)) == NO_FUNCTION


@pytest.mark.parametrize("fid", [0, MASK64, 0xC400_018F, 0xC400_0190, 0x8400_0150, 0xC400_014F])
def test_other_functions_are_unknown(monitor: Monitor, fid: int) -> None:
    """Any x0 of the host gets an answer, including RMI_REQ_COMPLETE and RSI."""
    monitor.boot(FakeRmm())
    assert monitor.conduit(Pas.NS).smc(0, (fid,)) == NO_FUNCTION


def test_rmi_is_unknown_when_the_rmm_did_not_boot(monitor: Monitor) -> None:
    """Before the boot, and after one that failed."""
    host = monitor.conduit(Pas.NS)
    assert host.smc(0, (RMI_VERSION,)) == NO_FUNCTION
    assert monitor.boot(FakeRmm(status=rmmd.BootError.VERSION_MISMATCH)) == -2
    assert host.smc(0, (RMI_VERSION,)) == NO_FUNCTION


def test_boot_hands_over_a_valid_manifest_on_every_pe(
    machine: FakeMachine, monitor: Monitor
) -> None:
    """Version 0.3, one bank with all delegable DRAM, and sums that are zero."""
    rmm = FakeRmm()
    assert monitor.boot(rmm) == 0
    shared = monitor.layout.shared_pa
    assert rmm.boots == [(n, rmmd.INTERFACE_VERSION, 2, shared) for n in range(2)]
    page = machine.memory(Pas.REALM).read(shared, 4096)
    version, pad, _plat, num_banks, banks, checksum = struct.unpack_from("<IIQQQQ", page)
    assert (version, pad, num_banks) == (3, 0, 1)
    base, size = struct.unpack_from("<QQ", page, banks - shared)
    assert (base, size) == (DRAM_BASE, monitor.layout.ns_size)
    assert (num_banks + banks + checksum + base + size) & MASK64 == 0
    assert struct.unpack_from("<QQQ", page, 0x28) == (0, 0, 0)


def test_normal_world_may_ask_for_the_calling_convention(monitor: Monitor) -> None:
    """SMCCC 1.2, whether or not there is an RMM."""
    assert monitor.conduit(Pas.NS).smc(0, (0x8000_0000,)) == (0x1_0002, 0, 0, 0)


def test_granules_are_counted(monitor: Monitor) -> None:
    """Every granule of DRAM belongs to one PAS."""
    before = monitor.count_granules()
    assert sum(before.values()) == DRAM_SIZE // 4096
    monitor.conduit(Pas.REALM).smc(0, (RmmdFid.GTSI_DELEGATE, PA))
    moved = {Pas.NS: before[Pas.NS] - 1, Pas.REALM: before[Pas.REALM] + 1}
    assert monitor.count_granules() == before | moved


def test_gpt_registers_locate_the_table(machine: FakeMachine, monitor: Monitor) -> None:
    """GPC on, 4 KiB granules, 1 GiB per L0 entry, an address space that holds DRAM."""
    base, gpccr = machine.gpt
    assert base == monitor.layout.l0_base
    register = GPCCR_EL3(gpccr)
    assert register.GPC
    assert (register.PGS, register.L0GPTSZ, register.PPS) == (0, 0, 0)


def test_leak_check_names_what_is_still_delegated(monitor: Monitor) -> None:
    """Exactly the granules that were not undelegated."""
    el3 = monitor.conduit(Pas.REALM)
    assert monitor.leak_check() == []
    for n in (0, 3):
        el3.smc(0, (RmmdFid.GTSI_DELEGATE, PA + n * 4096))
    assert monitor.leak_check() == [PA, PA + 3 * 4096]


def test_events_tell_of_calls_switches_and_transitions(machine: FakeMachine) -> None:
    """A listener sees the SMC, both world switches and the change of the GPT."""
    seen: list[Event] = []
    monitor = Monitor(machine, EventStream(seen.append))
    monitor.boot(FakeRmm())
    monitor.conduit(Pas.NS).smc(1, (RMI_VERSION,))
    monitor.conduit(Pas.REALM).smc(0, (RmmdFid.GTSI_DELEGATE, PA))
    assert seen == [
        WorldSwitch(1, Pas.NS, Pas.REALM),
        WorldSwitch(1, Pas.REALM, Pas.NS),
        Smc(1, Pas.NS, (RMI_VERSION,), (0, 1, RMI_VERSION)),
        GptChange(PA, 4096, Pas.NS, Pas.REALM),
        Smc(0, Pas.REALM, (RmmdFid.GTSI_DELEGATE, PA), (0,)),
    ]


# --- series -----------------------------------------------------------------------------------

DELEGATE_ROW = ((RmmdFid.GTSI_DELEGATE, PA), (0, 4096))


def test_series_of_transitions_is_one_for_the_machine(
    machine: FakeMachine, monitor: Monitor
) -> None:
    """The order of a single one, over the whole range."""
    el3 = monitor.conduit(Pas.REALM)
    assert el3.smc_series(0, *DELEGATE_ROW, 40) == (40, (0, 0, 0, 0))
    assert machine.log == [("tlbi", PA, 40 * 4096), ("punch NS", PA, 40 * 4096)]
    assert monitor.leak_check() == [PA + n * 4096 for n in range(40)]


def test_series_ends_at_the_first_call_that_fails(machine: FakeMachine, monitor: Monitor) -> None:
    """What came before is done, what comes after is not, as with calls one by one."""
    el3 = monitor.conduit(Pas.REALM)
    el3.smc(0, (RmmdFid.GTSI_DELEGATE, PA + 3 * 4096))
    machine.log.clear()
    assert el3.smc_series(0, *DELEGATE_ROW, 6) == (3, error(RmmdError.BAD_PAS))
    assert monitor.leak_check() == [PA + n * 4096 for n in range(4)]
    last = (monitor.layout.rmm_base - 4096, RmmdFid.GTSI_DELEGATE)
    assert el3.smc_series(0, last[::-1], (0, 4096), 3) == (1, error(RmmdError.BAD_ADDR))


@pytest.mark.parametrize(
    ("args", "steps", "expected"),
    [
        ((RmmdFid.GTSI_DELEGATE, PA), (0, 0), (1, error(RmmdError.BAD_PAS))),
        ((RmmdFid.GTSI_DELEGATE, PA), (0, 8192), (4, (0, 0, 0, 0))),
        ((RmmdFid.GTSI_DELEGATE, PA + 1), (0, 4096), (0, error(RmmdError.BAD_ADDR))),
        ((RmmdFid.GTSI_DELEGATE,), (0,), (0, error(RmmdError.BAD_ADDR))),
        ((RmmdFid.EL3_FEATURES, 0), (0, 1), (1, error(RmmdError.INVAL))),
        ((0xC400_01FF,), (0,), (0, NO_FUNCTION)),
    ],
)
def test_series_of_any_call_is_its_calls(
    monitor: Monitor,
    args: tuple[int, ...],
    steps: tuple[int, ...],
    expected: tuple[int, tuple[int, ...]],
) -> None:
    """Whether EL3 can do several of them at once or not."""
    assert monitor.conduit(Pas.REALM).smc_series(0, args, steps, 4) == expected


def test_series_of_another_world_has_no_services(machine: FakeMachine, monitor: Monitor) -> None:
    """The table of a series is by the caller's world, too."""
    for security in (Pas.NS, Pas.SECURE, Pas.ROOT):
        assert monitor.conduit(security).smc_series(0, *DELEGATE_ROW, 2) == (0, NO_FUNCTION)
    assert machine.log == []


def test_listener_sees_each_call_of_a_series(machine: FakeMachine) -> None:
    """A trace is the one of calls one by one."""
    seen: list[Event] = []
    monitor = Monitor(machine, EventStream(seen.append))
    assert monitor.conduit(Pas.REALM).smc_series(0, *DELEGATE_ROW, 2) == (2, (0, 0, 0, 0))
    pas = (PA, PA + 4096)
    assert [each for each in seen if isinstance(each, GptChange)] == [
        GptChange(pa, 4096, Pas.NS, Pas.REALM) for pa in pas
    ]
    assert [each for each in seen if isinstance(each, Smc)] == [
        Smc(0, Pas.REALM, (RmmdFid.GTSI_DELEGATE, pa), (0,)) for pa in pas
    ]
