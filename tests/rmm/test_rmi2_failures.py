"""Every way for a command of RMI 2.0 to fail: one table per command, in the order of its checks.

A row breaks one condition of a call that succeeds otherwise, as in ``test_failures.py``.
"""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.psci import PsciFid, PsciReturn
from pyvmm.arch.rmi import RecEnterFlags, RecParams, Ripas, RmiFid
from pyvmm.arch.rmi2 import Rmi2Fid, RmmConfig
from pyvmm.arch.rsi import RsiFid
from rmm.rmi2 import RMI_2_0
from tests.rmm.world import DRAM_BASE, DRAM_SIZE, abort, smc
from tests.rmm.world2 import (
    BLOCKED,
    BUSY,
    CAN_CANCEL,
    DONATE,
    GLOBAL,
    INCOMPLETE,
    INPUT,
    LIST,
    REALM,
    REC,
    RECLAIM,
    RTT,
    SINGLE,
    TRACKING,
    World2,
    desc,
)

PAGE: Final = GRANULE_SIZE
MIB2: Final = 2 << 20
GIB: Final = 1 << 30
UNPROTECTED: Final = 1 << 32
OUTSIDE: Final = 1 << 33
MASK64: Final = (1 << 64) - 1
END: Final = DRAM_BASE + DRAM_SIZE
DENIED: Final = PsciReturn.DENIED.x0
SHARED_FLAGS: Final = SINGLE | 6 << 16 | 3 << 19

RAM, ASSIGNED, FREE = PAGE, 2 * PAGE, 3 * PAGE  # IPAs: VOID/RAM, DATA/RAM, VOID
EMPTY_TABLE, LIVE_TABLE = MIB2, 0  # IPAs of tables of pages
NO_TABLE, NO_TABLES = 5 * MIB2, GIB  # IPAs where a walk ends at level 2 and 1
SHARED, UNSHARED = UNPROTECTED + PAGE, UNPROTECTED + 2 * PAGE


class Stage:
    """A world in which each command has arguments that succeed."""

    def __init__(self) -> None:
        world = self.world = World2()
        self.ns = world.ns_granule()
        self.delegated = world.delegated(4)
        self.rd = self._realm()
        self.rec = world.rec(self.rd)
        self.active = self._realm()
        recs = [world.rec(self.active, mpidr=n, flags=int(n != 1)) for n in range(5)]
        self.idle, self.off, self.asking, self.changing, self.faulted = recs
        world.do(RmiFid.RMI_REALM_ACTIVATE, self.active)
        world.enter(self.asking, smc(PsciFid.CPU_ON_64, 1, 0, 0))
        world.enter(self.changing, smc(RsiFid.RSI_IPA_STATE_SET, FREE, FREE + PAGE, Ripas.RAM, 0))
        world.enter(self.faulted, abort(UNPROTECTED, ISV=0))
        self.zombie = world.realm(depth=1)
        world.do(Rmi2Fid.RMI_REALM_TERMINATE, self.zombie)
        # Operations, by what they expect.
        self.donating, self.ready = self._creation(7), self._creation(8)
        pas = (world.delegated(), world.delegated())
        self.donate(self.ready, *pas)
        self.returning = world.rec(self.rd, mpidr=9)
        world.call(RmiFid.RMI_REC_DESTROY, self.returning)

    def _realm(self) -> int:
        world = self.world
        rd = world.realm()
        world.tables(rd, EMPTY_TABLE, [3])
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, RAM, RAM + PAGE)
        world.page(rd, ASSIGNED)
        args = (rd, SHARED, SHARED + PAGE, SHARED_FLAGS, desc(world.ns_granule()))
        world.do(Rmi2Fid.RMI_RTT_UNPROT_MAP, *args)
        return rd

    def _creation(self, mpidr: int) -> int:
        rec = self.world.delegated()
        results = self.world.call(RmiFid.RMI_REC_CREATE, self.rd, rec, self.rec_params(mpidr=mpidr))
        assert results[0] == INCOMPLETE | DONATE | CAN_CANCEL
        return results[1]

    def donate(self, handle: int, *pas: int) -> tuple[int, ...]:
        """Lend granules to an operation."""
        buffer = self.world.list(*map(desc, pas))
        return self.world.call(Rmi2Fid.RMI_OP_MEM_DONATE, handle, buffer, len(pas))

    def not_ns(self) -> int:
        """Return a granule that is the host's by its state, but not by the GPT."""
        pa = self.world.ns_granule()
        self.world.machine.gpt[(pa - DRAM_BASE) // PAGE] = Pas.SECURE
        return pa

    def realm_params(self, **changes: int) -> int:
        """Return a granule with parameters of a realm."""
        return self.world.ns_granule(self.world.params2(**changes).data)

    def rec_params(self, **changes: int) -> int:
        """Return a granule with parameters of a REC."""
        params = RecParams.of(**{"flags": 1, "mpidr": 5, **changes})
        return self.world.ns_granule(params.data)


Value = int | Callable[[Stage], int]
Result = tuple[int, ...]


@dataclass(frozen=True)
class Failure:
    """A condition: its name, the answer, and what breaks it."""

    name: str
    x0: int
    changes: Mapping[str, Value] = field(default_factory=dict)
    before: Callable[[Stage, list[int]], object] | None = None


def rtt(level: int) -> int:
    """Return x0 of a walk that ended at a level."""
    return RTT | level << 8


def delegated(stage: Stage) -> int:
    """Return a granule that nobody uses."""
    return stage.delegated


def ns(stage: Stage) -> int:
    """Return a granule of the host."""
    return stage.ns


def rd(stage: Stage) -> int:
    """Return the RD of a realm in state NEW."""
    return stage.rd


def active(stage: Stage) -> int:
    """Return the RD of an active realm."""
    return stage.active


def donating(stage: Stage) -> int:
    """Return the REC granule of an operation."""
    return stage.donating


def listed(*values: Value, count: int | None = None) -> Callable[[Stage], int]:
    """Return a function that makes a list of granules."""
    del count
    return lambda stage: stage.world.list(*(desc(get(stage, value)) for value in values))


def words(*values: int) -> Callable[[Stage], int]:
    """Return a function that makes a list of descriptors."""
    return lambda stage: stage.world.ns_granule(array("Q", values).tobytes())


def objects(name: str, wrong: Value = delegated) -> list[Failure]:
    """Return the rows of an argument that is an RD or a REC."""
    return [
        Failure(f"{name}_align", INPUT, {name: lambda stage: stage.rd + 0x800}),
        Failure(f"{name}_bound", INPUT, {name: END}),
        Failure(f"{name}_state", INPUT, {name: wrong}),
        Failure(f"{name}_operation", BLOCKED, {name: donating}),
    ]


def new_object(name: str) -> list[Failure]:
    """Return the rows of an argument that becomes an RD or a REC."""
    return [
        Failure(f"{name}_align", INPUT, {name: lambda stage: stage.delegated + 0x800}),
        Failure(f"{name}_bound", INPUT, {name: END}),
        Failure(f"{name}_state", INPUT, {name: ns}),
        Failure(f"{name}_operation", BLOCKED, {name: donating}),
    ]


def page(name: str) -> list[Failure]:
    """Return the rows of an argument that is a granule of the host."""
    return [
        Failure(f"{name}_align", INPUT, {name: lambda stage: stage.ns + 8}),
        Failure(f"{name}_bound", INPUT, {name: END}),
        Failure(f"{name}_pas", INPUT, {name: delegated}),
    ]


def run(stage: Stage, args: list[int]) -> None:
    """Make the command's REC run."""
    for pa in args:
        if pa in stage.world.rmm.recs:
            stage.world.rmm.recs[pa].running = True


def run_idle(stage: Stage, _args: list[int]) -> None:
    """Make a REC of the active realm run."""
    stage.world.rmm.recs[stage.idle].running = True


def system_off(stage: Stage, _args: list[int]) -> None:
    """Make the active realm turn itself off."""
    stage.world.enter(stage.idle, smc(PsciFid.SYSTEM_OFF))


def terminate(stage: Stage, args: list[int]) -> None:
    """Terminate the command's realm."""
    for pa in args:
        if pa in stage.world.rmm.realms:
            stage.world.do(Rmi2Fid.RMI_REALM_TERMINATE, pa)


def fill(stage: Stage, _args: list[int]) -> None:
    """Give the realm the maximum number of RECs."""
    stage.world.rmm.realms[stage.rd].num_live_recs = 1023


def no_vmid(stage: Stage, _args: list[int]) -> None:
    """Give one realm all VMIDs but those of the others."""
    rmm = stage.world.rmm
    for vmid in range(1, 1 << 8):
        rmm.realms[-vmid] = type("Taken", (), {"vmid": vmid})()
    rmm.limits = type("Few", (), {**{n: getattr(rmm.limits, n) for n in LIMITS}, "vmid_bits": 8})()


LIMITS = (
    "s2sz", "pa_range", "num_bps", "num_wps", "num_counters", "max_recs_order", "realm_donation",
)  # fmt: skip


def list_lrs(*lrs: int) -> Callable[[Stage, list[int]], None]:
    """Return a function that sets the list registers of PE 0."""

    def set_lrs(stage: Stage, _args: list[int]) -> None:
        for n, lr in enumerate(lrs):
            stage.world.pes[0].interface.ich_lr[n] = lr

    return set_lrs


def refuse(stage: Stage, args: list[int]) -> None:
    """Make EL3 refuse a granule."""
    stage.world.machine.gpt[(args[0] - DRAM_BASE) // PAGE] = Pas.SECURE


def get(stage: Stage, value: Value) -> int:
    """Return an argument."""
    return value(stage) if callable(value) else value


def realm_with(**changes: int) -> Callable[[Stage], int]:
    """Return a function that makes parameters of a realm."""
    return lambda stage: stage.realm_params(**changes)


def bad_realms() -> list[Failure]:
    """Return a row for each parameter of a realm that can be wrong."""
    changes: list[dict[str, int]] = [
        {"flags": 1}, {"flags": 2}, {"flags": 4}, {"flags": 8}, {"flags": 16}, {"flags": 2 << 5},
        {"flags": 2 << 7}, {"flags": 1 << 9}, {"flags": 1 << 63}, {"s2sz": 31}, {"s2sz": 49},
        {"s2sz": 1 << 8 | 33}, {"num_bps": 0}, {"num_bps": 6}, {"num_bps": 1 << 32 | 1},
        {"num_wps": 0}, {"num_wps": 4}, {"num_wps": 1 << 8 | 1}, {"hash_algo": 3},
        {"hash_algo": 1 << 8}, {"sve_vl": 1}, {"pmu_num_ctrs": 1},
        {"flags": 4, "pmu_num_ctrs": 7}, {"flags": 4, "pmu_num_ctrs": 1 << 8 | 1},
        {"num_aux_planes": 1},
        {"ats_plane": 1}, {"flags1": 1}, {"max_num_vdevs": 1}, {"rtt_level_start": 0},
        {"rtt_level_start": 2}, {"rtt_level_start": 3}, {"rtt_level_start": -1},
        {"rtt_num_start": 0}, {"rtt_num_start": 2}, {"s2sz": 40},
        {"rtt_num_start": 1 << 32 | 1, "rtt_base": DRAM_BASE},
    ]  # fmt: skip
    return [
        Failure(f"params {change}", INPUT, {"params_ptr": realm_with(**change)})
        for change in changes
    ]


def is_in(base: str, top: str, half: int) -> list[Failure]:
    """Return the rows of a range of IPAs in a half."""
    inside, other = (FREE, UNSHARED) if not half else (UNSHARED, FREE)
    return [
        Failure("size", INPUT, {base: inside, top: inside}),
        Failure("size", INPUT, {top: 0}),
        Failure("align", INPUT, {base: inside + 1}),
        Failure("align", INPUT, {top: inside + PAGE + 0x800}),
        Failure("half", INPUT, {base: other, top: other + PAGE}),
        Failure("bound", INPUT, {base: OUTSIDE, top: OUTSIDE + PAGE}),
        Failure("bound", INPUT, {top: MASK64 & -PAGE}),
    ]


SOURCES = [
    Failure("type", INPUT, {"flags": 0}),
    Failure("type", INPUT, {"flags": 3}),
    Failure("list count of SINGLE", INPUT, {"flags": SINGLE | 1 << 2}),
    Failure("list without count", INPUT, {"flags": LIST, "oaddr": ns}),
    Failure("list align", INPUT, {"flags": LIST | 1 << 2, "oaddr": lambda stage: stage.ns + 4}),
    Failure("list pas", INPUT, {"flags": LIST | 1 << 2, "oaddr": delegated}),
    Failure("list bound", INPUT, {"flags": LIST | 1 << 2, "oaddr": END}),
    Failure("reserved flag", INPUT, {"flags": SINGLE | 1 << 62}),
    Failure("reserved bit", INPUT, {"oaddr": desc(DRAM_BASE) | 1 << 52}),
    Failure("block align", INPUT, {"oaddr": desc(DRAM_BASE + PAGE, size=1)}),
    Failure("no block", INPUT, {"oaddr": desc(DRAM_BASE, 0)}),
    Failure("pa bound", INPUT, {"oaddr": desc(1 << 48)}),
]
DESTINATIONS = [
    Failure("type", INPUT, {"flags": 3}),
    Failure("oaddr of NONE", INPUT, {"oaddr": ns}),
    Failure("oaddr of SINGLE", INPUT, {"flags": SINGLE, "oaddr": ns}),
    Failure("list count of SINGLE", INPUT, {"flags": SINGLE | 1 << 2}),
    Failure("list align", INPUT, {"flags": LIST, "oaddr": lambda stage: stage.ns + 1}),
    Failure("list pas", INPUT, {"flags": LIST, "oaddr": delegated}),
    Failure("reserved flag", INPUT, {"flags": 1 << 16}),
]
DATA_RANGE = is_in("base", "top", 0)
SHARED_RANGE = is_in("base", "top", 1)
MOVED = [
    Failure("size", INPUT, {"top": 0}),
    Failure("align", INPUT, {"base": lambda stage: stage.delegated + 1}),
    Failure("align", INPUT, {"top": END + 1}),
    Failure("bound", TRACKING, {"base": END, "top": END + PAGE}),
    Failure("bound", TRACKING, {"base": 0, "top": PAGE}),
    Failure("use", INPUT, {"base": rd, "top": END}),
    Failure("operation", BLOCKED, {"base": donating, "top": END}),
]
OPERATION = [
    Failure("handle", INPUT, {"handle": 0}),
    Failure("handle", INPUT, {"handle": rd}),
    Failure("handle", INPUT, {"handle": lambda stage: stage.donating + PAGE}),
]


def after(name: str, count: int = 1) -> Callable[[Stage], int]:
    """Return a function that returns the end of granules that begin at an attribute."""
    return lambda stage: int(getattr(stage, name)) + count * PAGE


#: Arguments that succeed, then the rows.
TABLES: dict[int, tuple[dict[str, Value], list[Failure]]] = {
    RmiFid.RMI_VERSION: (
        {"req": 0x2_0000},
        [
            Failure("req", INPUT, {"req": 0x2_0001}),
            Failure("req", INPUT, {"req": 0}),
            Failure("realms of 2.0", INPUT, {"req": 0x1_0000}),
        ],
    ),
    RmiFid.RMI_FEATURES: ({"index": 1}, []),
    Rmi2Fid.RMI_RMM_CONFIG_GET: ({"cfg": ns}, page("cfg")),
    Rmi2Fid.RMI_RMM_CONFIG_SET: (
        {"cfg": ns},
        [
            Failure("state", GLOBAL, before=lambda s, _: s.world.rmm.set_active(True)),
            *page("cfg"),
            *(
                Failure(f"cfg {at:#x}", INPUT, {"cfg": words(*[0] * (at // 8), value)})
                for at, value in ((0, 2), (0, 1 << 8), (8, 1), (8, 2), (16, 1), (0xFF8, 1))
            ),
        ],
    ),
    Rmi2Fid.RMI_RMM_STATE_GET: ({}, []),
    Rmi2Fid.RMI_RMM_ACTIVATE: (
        {},
        [Failure("state", GLOBAL, before=lambda s, _: s.world.rmm.set_active(True))],
    ),
    Rmi2Fid.RMI_RMM_DEACTIVATE: (
        {},
        [
            Failure("operations", BUSY, before=lambda _s, _args: None),
            Failure("granules", GLOBAL, before=lambda s, _: s.world.rmm.operations.clear()),
        ],
    ),
    Rmi2Fid.RMI_GRANULE_TRACKING_GET: (
        {"base": ns, "top": END},
        [
            Failure("size", INPUT, {"top": ns}),
            Failure("align", INPUT, {"base": DRAM_BASE + 1}),
            Failure("align", INPUT, {"top": END + 0x800}),
            Failure("bound", INPUT, {"top": (1 << 48) + PAGE}),
        ],
    ),
    Rmi2Fid.RMI_GRANULE_TRACKING_SET: (
        {"addr": DRAM_BASE, "category": 0, "state": 2},
        [
            Failure("align", INPUT, {"addr": DRAM_BASE + MIB2}),
            Failure("bound", INPUT, {"addr": 0}),
            Failure("category", INPUT, {"category": 1}),
            *(Failure(f"state {n}", INPUT, {"state": n}) for n in (0, 1, 3, 4)),
        ],
    ),
    Rmi2Fid.RMI_GRANULE_RANGE_DELEGATE: (
        {"base": ns, "top": after("ns")},
        [*MOVED, Failure("pas", INPUT, {"base": ns}, before=refuse)],
    ),
    Rmi2Fid.RMI_GRANULE_RANGE_UNDELEGATE: (
        {"base": delegated, "top": after("delegated")},
        [*MOVED, Failure("pas", INPUT, {"base": delegated}, before=refuse)],
    ),
    Rmi2Fid.RMI_GPT_L1_CREATE: (
        {"addr": DRAM_BASE},
        [
            Failure("align", INPUT, {"addr": DRAM_BASE + PAGE}),
            Failure("bound", INPUT, {"addr": 1 << 48}),
            Failure("platform", GLOBAL),
        ],
    ),
    Rmi2Fid.RMI_GPT_L1_DESTROY: (
        {"addr": DRAM_BASE},
        [
            Failure("align", INPUT, {"addr": DRAM_BASE + PAGE}),
            Failure("bound", INPUT, {"addr": 1 << 48}),
            Failure("platform", GLOBAL),
        ],
    ),
    Rmi2Fid.RMI_GPT_INFO: (
        {"base": DRAM_BASE, "top": DRAM_BASE + GIB},
        [
            Failure("size", INPUT, {"top": DRAM_BASE}),
            Failure("align", INPUT, {"base": PAGE}),
            Failure("align", INPUT, {"top": DRAM_BASE + GIB + PAGE}),
            Failure("bound", INPUT, {"top": (1 << 48) + GIB}),
        ],
    ),
    Rmi2Fid.RMI_RTT_DATA_MAP_INIT: (
        {"rd": rd, "data": delegated, "ipa": FREE, "src": ns, "flags": 1},
        [
            Failure("flags", INPUT, {"flags": 2}),
            Failure("alias", INPUT, {"rd": rd, "data": rd}),
            *page("src"),
            *objects("rd"),
            Failure("realm_state", REALM, {"rd": active}),
            Failure("ipa_align", INPUT, {"ipa": FREE + 1}),
            Failure("ipa_half", INPUT, {"ipa": UNSHARED}),
            Failure("rtt_walk", rtt(2), {"ipa": NO_TABLE}),
            Failure("rtte_state", rtt(3), {"ipa": ASSIGNED}),
            Failure("data_bound", TRACKING, {"data": END}),
            Failure("data_operation", BLOCKED, {"data": donating}),
            Failure("data_state", INPUT, {"data": ns}),
        ],
    ),
    Rmi2Fid.RMI_RTT_DATA_MAP: (
        {
            "rd": active,
            "base": FREE,
            "top": FREE + PAGE,
            "flags": SINGLE,
            "oaddr": lambda stage: desc(stage.delegated),
        },
        [
            *objects("rd"),
            Failure("realm_state", REALM, before=system_off),
            Failure("realm_state", REALM, before=terminate),
            *DATA_RANGE,
            *SOURCES,
            Failure("state", INPUT, {"oaddr": lambda s: desc(s.delegated, state=1)}),
            Failure("attributes", INPUT, {"flags": SHARED_FLAGS}),
            Failure("rtt_walk", rtt(2), {"base": NO_TABLE, "top": NO_TABLE + MIB2}),
            Failure("rtt_walk", rtt(1), {"base": NO_TABLES, "top": NO_TABLES + GIB}),
            Failure("rtte_state", rtt(3), {"base": ASSIGNED}),
            Failure("pa_bound", TRACKING, {"oaddr": desc(END)}),
            Failure("pa_operation", BLOCKED, {"oaddr": lambda s: desc(s.donating)}),
            Failure("pa_state", INPUT, {"oaddr": lambda s: desc(s.ns)}),
            Failure("pa_state", INPUT, {"oaddr": lambda s: desc(s.rd)}),
        ],
    ),
    Rmi2Fid.RMI_RTT_UNPROT_MAP: (
        {
            "rd": active,
            "base": UNSHARED,
            "top": UNSHARED + PAGE,
            "flags": SHARED_FLAGS,
            "oaddr": lambda stage: desc(stage.ns),
        },
        [
            *objects("rd"),
            Failure("realm_state", REALM, before=terminate),
            *SHARED_RANGE,
            *SOURCES,
            Failure("memattr", INPUT, {"flags": SINGLE | 4 << 16}),
            Failure("s2ap", INPUT, {"flags": SHARED_FLAGS | 1 << 21}),
            Failure("s2ap", INPUT, {"flags": SHARED_FLAGS | 1 << 22}),
            Failure("rtt_walk", rtt(1), {"base": UNPROTECTED + GIB, "top": UNPROTECTED + 2 * GIB}),
            Failure("rtte_state", rtt(3), {"base": SHARED}),
        ],
    ),
    Rmi2Fid.RMI_RTT_DATA_UNMAP: (
        {"rd": active, "base": ASSIGNED, "top": ASSIGNED + PAGE, "flags": 0, "oaddr": 0},
        [*objects("rd"), *DATA_RANGE, *DESTINATIONS],
    ),
    Rmi2Fid.RMI_RTT_UNPROT_UNMAP: (
        {"rd": active, "base": SHARED, "top": SHARED + PAGE, "flags": 0, "oaddr": 0},
        [*objects("rd"), *SHARED_RANGE, *DESTINATIONS],
    ),
    RmiFid.RMI_REALM_ACTIVATE: (
        {"rd": rd},
        [*objects("rd"), Failure("realm_state", REALM, {"rd": active})],
    ),
    RmiFid.RMI_REALM_CREATE: (
        {"rd": delegated, "params_ptr": realm_with()},
        [
            *page("params_ptr"),
            *bad_realms(),
            Failure("mecid", GLOBAL, {"params_ptr": realm_with(flags=1 << 7)}),
            Failure("vmid", GLOBAL, before=no_vmid),
            *new_object("rd"),
            Failure("rtt_bound", INPUT, {"params_ptr": realm_with(rtt_base=END)}),
            Failure("rtt_state", INPUT, {"params_ptr": realm_with(rtt_base=DRAM_BASE)}),
            Failure(
                "alias",
                INPUT,
                {"params_ptr": lambda s: s.realm_params(rtt_base=s.delegated)},
            ),
        ],
    ),
    RmiFid.RMI_REALM_DESTROY: (
        {"rd": lambda stage: stage.zombie},
        [
            *objects("rd"),
            Failure("realm_state", REALM, {"rd": active}),
            Failure("recs", REALM, {"rd": rd}, before=terminate),
        ],
    ),
    Rmi2Fid.RMI_REALM_TERMINATE: (
        {"rd": active},
        [*objects("rd"), Failure("running", REALM, before=run_idle)],
    ),
    RmiFid.RMI_REC_CREATE: (
        {"rd": rd, "rec": delegated, "params_ptr": lambda stage: stage.rec_params()},
        [
            *page("params_ptr"),
            *new_object("rec"),
            *objects("rd", wrong=lambda stage: stage.delegated + PAGE),
            Failure("mpidr", INPUT, {"params_ptr": lambda s: s.rec_params(mpidr=0)}),
            Failure("mpidr", INPUT, {"params_ptr": lambda s: s.rec_params(mpidr=1 << 4)}),
            Failure("mpidr", INPUT, {"params_ptr": lambda s: s.rec_params(mpidr=1 << 32)}),
            Failure("num_recs", REALM, before=fill),
            Failure("realm_state", REALM, before=terminate),
        ],
    ),
    RmiFid.RMI_REC_DESTROY: (
        {"rec": lambda stage: stage.idle},
        [*objects("rec"), Failure("rec_state", REC, before=run)],
    ),
    RmiFid.RMI_REC_ENTER: (
        {"rec": lambda stage: stage.idle, "run_ptr": ns},
        [
            *page("run_ptr"),
            *objects("rec"),
            Failure("rec_state", REC, before=run),
            Failure("realm_state", REALM, before=system_off),
            Failure("realm_state", REALM, {"rec": lambda stage: stage.rec}),
            Failure("runnable", REC, {"rec": lambda stage: stage.off}),
            Failure("psci", REC, {"rec": lambda stage: stage.asking}),
            Failure("lr hw", REC, before=list_lrs(1 << 62 | 1 << 61)),
            Failure("lr twice", REC, before=list_lrs(1 << 62 | 40, 1 << 63 | 40)),
            Failure("sea", REC, {"run_ptr": words(RecEnterFlags.INJECT_SEA)}),
            Failure("mmio", REC, {"run_ptr": words(RecEnterFlags.EMUL_MMIO)}),
        ],
    ),
    RmiFid.RMI_RTT_CREATE: (
        {"rd": rd, "rtt": delegated, "ipa": NO_TABLE, "level": 3},
        [
            Failure("rtt_state", INPUT, {"rtt": donating}),
            *objects("rd"),
            Failure("ipa_align", INPUT, {"ipa": NO_TABLE + PAGE}),
            Failure("level", INPUT, {"level": 4}),
            Failure("rtte_state", rtt(2), {"ipa": EMPTY_TABLE}),
        ],
    ),
    RmiFid.RMI_RTT_DESTROY: (
        {"rd": rd, "ipa": EMPTY_TABLE, "level": 3},
        [
            *objects("rd"),
            Failure("level", INPUT, {"level": 1}),
            Failure("rtt_live", rtt(3), {"ipa": LIVE_TABLE}),
        ],
    ),
    RmiFid.RMI_RTT_FOLD: (
        {"rd": rd, "ipa": EMPTY_TABLE, "level": 3},
        [
            *objects("rd"),
            Failure("level", INPUT, {"level": 1}),
            Failure("rtt_homo", rtt(3), {"ipa": LIVE_TABLE}),
        ],
    ),
    RmiFid.RMI_RTT_INIT_RIPAS: (
        {"rd": rd, "base": FREE, "top": FREE + PAGE},
        [
            *objects("rd"),
            Failure("size", INPUT, {"top": FREE}),
            Failure("align", INPUT, {"base": FREE + 1}),
            Failure("half", INPUT, {"base": UNSHARED, "top": UNSHARED + PAGE}),
            Failure("realm_state", REALM, {"rd": active}),
            Failure("base_align", rtt(2), {"base": NO_TABLE + PAGE, "top": NO_TABLE + 2 * MIB2}),
            Failure("progress", rtt(2), {"base": NO_TABLE, "top": NO_TABLE + PAGE}),
        ],
    ),
    RmiFid.RMI_RTT_READ_ENTRY: (
        {"rd": active, "ipa": ASSIGNED, "level": 3},
        [
            *objects("rd"),
            Failure("level", INPUT, {"level": 4}),
            Failure("align", INPUT, {"ipa": ASSIGNED + 1}),
            Failure("bound", INPUT, {"ipa": OUTSIDE}),
        ],
    ),
    RmiFid.RMI_RTT_SET_RIPAS: (
        {"rd": active, "rec": lambda s: s.changing, "base": FREE, "top": FREE + PAGE},
        [
            Failure("size", INPUT, {"top": FREE}),
            *objects("rd"),
            *objects("rec"),
            Failure("rec_owner", REC, {"rd": rd}),
            Failure("pending", INPUT, {"rec": lambda stage: stage.idle}),
        ],
    ),
    RmiFid.RMI_PSCI_COMPLETE: (
        {"calling_rec": lambda s: s.asking, "status": 0, "old_status": 0},
        [
            *objects("calling_rec"),
            Failure("pending", INPUT, {"calling_rec": lambda stage: stage.idle}),
            Failure("target", INPUT, {"status": lambda stage: stage.idle}),
            Failure("status", INPUT, {"status": 1}),
            Failure("status", INPUT, {"status": PsciReturn.ALREADY_ON.x0}),
            Failure("status", INPUT, {"status": lambda stage: stage.off, "old_status": 1}),
        ],
    ),
    Rmi2Fid.RMI_OP_CONTINUE: (
        {"handle": lambda stage: stage.ready, "flags": 1},
        [
            *OPERATION,
            Failure("expected", INPUT, {"handle": donating}),
            Failure("expected", INPUT, {"handle": lambda stage: stage.returning}),
            Failure("flags", INPUT, {"flags": 2}),
            Failure("failed", INCOMPLETE | RECLAIM, before=lambda s, _: terminate(s, [s.rd])),
        ],
    ),
    Rmi2Fid.RMI_OP_MEM_DONATE: (
        {"handle": donating, "list_ptr": listed(delegated), "list_count": 1, "flags": 0},
        [
            *OPERATION,
            Failure("expected", INPUT, {"handle": lambda stage: stage.ready}),
            Failure("expected", INPUT, {"handle": lambda stage: stage.returning}),
            Failure("list_align", INPUT, {"list_ptr": lambda stage: stage.ns + 1}),
            Failure("list_pas", INPUT, {"list_ptr": delegated}),
            Failure("list_bound", INPUT, {"list_ptr": END}),
            Failure("block", INPUT, {"list_ptr": words(desc(DRAM_BASE, size=1))}),
            Failure("reserved", INPUT, {"list_ptr": words(desc(DRAM_BASE) | 1 << 52)}),
            Failure(
                "state", INPUT, {"list_ptr": lambda s: s.world.list(desc(s.delegated, 1, 0, 1))}
            ),
            Failure("too many", INPUT, {"list_ptr": lambda s: s.world.list(desc(s.delegated, 3))}),
            Failure("gran_state", INPUT, {"list_ptr": listed(ns)}),
            Failure("gran_state", INPUT, {"list_ptr": listed(rd)}),
            Failure("gran_state", INPUT, {"list_ptr": listed(donating)}),
            Failure("gran_bound", INPUT, {"list_ptr": listed(END)}),
            Failure("second", INPUT, {"list_ptr": listed(delegated, ns), "list_count": 2}),
            Failure("twice", INPUT, {"list_ptr": listed(delegated, delegated), "list_count": 2}),
        ],
    ),
    Rmi2Fid.RMI_OP_MEM_RECLAIM: (
        {"handle": lambda stage: stage.returning, "list_ptr": ns, "list_count": 1},
        [
            *OPERATION,
            Failure("list_align", INPUT, {"list_ptr": lambda stage: stage.ns + 1}),
            Failure("list_pas", INPUT, {"list_ptr": delegated}),
            Failure("expected", INPUT, {"handle": donating}),
            Failure("expected", INPUT, {"handle": lambda stage: stage.ready}),
        ],
    ),
    Rmi2Fid.RMI_OP_CANCEL: (
        {"handle": donating},
        [*OPERATION, Failure("can_cancel", INPUT, {"handle": lambda stage: stage.returning})],
    ),
}

#: Conditions that change the world themselves, on the way to the failure.
CHANGES = {"failed"}
#: Commands that fail always, or in this world.
NEVER = {
    Rmi2Fid.RMI_RMM_DEACTIVATE,
    Rmi2Fid.RMI_GPT_L1_CREATE,
    Rmi2Fid.RMI_GPT_L1_DESTROY,
}
#: Commands for a world that is not active.
INACTIVE = {Rmi2Fid.RMI_RMM_CONFIG_SET, Rmi2Fid.RMI_RMM_ACTIVATE}

ROWS = [(fid, failure) for fid, (_, failures) in TABLES.items() for failure in failures]
PAIRS = [
    (fid, first, second)
    for fid, (_, failures) in TABLES.items()
    for first, second in combinations(failures, 2)
    if first.x0 != second.x0
    and not set(first.changes) & set(second.changes)
    and not (first.before and second.before)
]


def issue(fid: int, *failures: Failure, is_watched: bool = True) -> tuple[int, bool]:
    """Issue a command with some conditions broken; return x0 and whether nothing changed."""
    stage, (arguments, _) = Stage(), TABLES[fid]
    if fid in INACTIVE:
        stage.world.rmm.set_active(False)
    for failure in failures:
        arguments = {**arguments, **failure.changes}
    args = [get(stage, value) for value in arguments.values()]
    for failure in failures:
        if failure.before is not None:
            failure.before(stage, args)
    is_watched &= "vmid" not in {each.name for each in failures}  # with realms that do not exist
    before = stage.world.snapshot() if is_watched else None
    x0 = stage.world.call(fid, *args)[0]
    return x0, before is None or stage.world.snapshot() == before


def name(value: object) -> str | None:
    """Return a short name of a parameter."""
    if isinstance(value, Failure):
        return value.name.replace(" ", "-")
    return RMI_2_0[value].name if isinstance(value, int) and value in RMI_2_0 else None


def test_every_command_has_its_table() -> None:
    """Each with its arguments."""
    assert set(TABLES) == set(RMI_2_0)
    for fid, (arguments, _) in TABLES.items():
        assert tuple(arguments) == RMI_2_0[fid].parameters


@pytest.mark.parametrize("fid", set(TABLES) - NEVER, ids=name)
def test_command_succeeds(fid: int) -> None:
    """Otherwise a failure below might have another cause than its row."""
    assert issue(fid)[0] & 0xFF in {0, INCOMPLETE}


@pytest.mark.parametrize(("fid", "failure"), ROWS, ids=name)
def test_command_fails(fid: int, failure: Failure) -> None:
    """The status is that of the row, and nothing has changed."""
    assert issue(fid, failure) == (failure.x0, failure.name not in CHANGES)


@pytest.mark.parametrize("fid", TABLES, ids=name)
def test_first_failure_decides(fid: int) -> None:
    """Of two broken conditions, the first one determines the result."""
    for each, first, second in PAIRS:
        if each == fid:
            assert issue(fid, first, second, is_watched=False)[0] == first.x0, (
                first.name,
                second.name,
            )


@pytest.mark.parametrize("fid", TABLES, ids=name)
def test_most_commands_need_an_active_rmm(fid: int) -> None:
    """Before anything else is checked."""
    world = World2(is_active=False)
    world.do(RmiFid.RMI_VERSION, 0x2_0000)
    served = {"RMI_VERSION", "RMI_FEATURES", "RMI_RMM_CONFIG_GET", "RMI_RMM_CONFIG_SET"}
    served |= {"RMI_RMM_STATE_GET", "RMI_RMM_ACTIVATE", "RMI_GRANULE_TRACKING_GET"}
    x0 = world.call(fid, 1, 2, 3, 4, 5)[0]
    assert (x0 == GLOBAL) == (RMI_2_0[fid].name not in served)


def test_configuration_is_all_zero_by_default() -> None:
    """As a host reads it."""
    world = World2(is_active=False)
    world.do(RmiFid.RMI_VERSION, 0x2_0000)
    pa = world.ns_granule(b"\xff" * PAGE)
    world.do(Rmi2Fid.RMI_RMM_CONFIG_GET, pa)
    assert world.ns.read(pa, PAGE) == bytes(RmmConfig())
