"""Every way for a command to fail: one table per command, in the order of the specification.

A row breaks one condition of a call that succeeds otherwise.  Checked are x0 to x4, that nothing
has changed, and for each two rows whose answers differ that the upper one decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.psci import PsciFid, PsciReturn
from pyvmm.arch.rmi import RecEnter, RecEnterFlags, Ripas, RmiFid
from pyvmm.arch.rsi import RsiFid
from rmm.rmi import RMI_1_0
from tests.rmm.world import DRAM_BASE, DRAM_SIZE, World, abort, smc

INPUT: Final = (1, 0, 0, 0, 0)
REALM: Final = (2, 0, 0, 0, 0)
REALM_OFF: Final = (2 | 1 << 8, 0, 0, 0, 0)
REC: Final = (3, 0, 0, 0, 0)
MASK64: Final = (1 << 64) - 1
PAGE: Final = GRANULE_SIZE
MIB2: Final = 2 << 20
GIB: Final = 1 << 30
UNPROTECTED: Final = 1 << 32
OUTSIDE: Final = 1 << 33
TABLE_END: Final = 1 << 39  # of the start table: it has 512 entries of 1 GiB
DENIED: Final = PsciReturn.DENIED.x0
WRITE_BACK_RW: Final = 6 << 2 | 3 << 6

RAM, ASSIGNED, FREE = PAGE, 2 * PAGE, 3 * PAGE  # IPAs: UNASSIGNED/RAM, ASSIGNED/RAM, UNASSIGNED
EMPTY_TABLE, LIVE_TABLE = MIB2, 0  # IPAs of tables of pages
NO_TABLE, NO_TABLES = 5 * MIB2, GIB  # IPAs where a walk ends at level 2 and 1
SHARED, UNSHARED = UNPROTECTED + PAGE, UNPROTECTED + 2 * PAGE


def rtt(level: int, *outputs: int) -> tuple[int, ...]:
    """Return ERROR_RTT with its index, and x1..."""
    return (4 | level << 8, *outputs, 0, 0, 0, 0)[:5]


class Stage:
    """A world in which each command has arguments that succeed."""

    def __init__(self) -> None:
        world = self.world = World()
        self.ns, self.delegated, self.run = (
            world.ns_granule(),
            world.delegated(),
            world.ns_granule(),
        )
        self.rd = self._realm(7)
        self.rec = world.rec(self.rd)
        self.empty = world.realm(vmid=9, depth=1)
        self.active = self._realm(8)
        self.idle = world.rec(self.active)
        self.off, self.asking, self.changing, self.faulted, self.stuck = (
            world.rec(self.active, mpidr=index, flags=index != 1) for index in range(1, 6)
        )
        world.do(RmiFid.RMI_REALM_ACTIVATE, self.active)
        world.enter(self.asking, smc(PsciFid.CPU_ON_64, 1, 0, 0))
        change = (FREE, FREE + 4 * PAGE, Ripas.RAM, 0)
        world.enter(self.changing, smc(RsiFid.RSI_IPA_STATE_SET, *change))
        world.enter(self.faulted, abort(UNPROTECTED, ISV=1))
        world.enter(self.stuck, abort(UNPROTECTED, ISV=0))

    def _realm(self, vmid: int) -> int:
        world = self.world
        rd = world.realm(vmid=vmid)
        world.tables(rd, EMPTY_TABLE, [3])
        world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, RAM, RAM + PAGE)
        world.page(rd, ASSIGNED)
        desc = PAGE | WRITE_BACK_RW
        world.do(RmiFid.RMI_RTT_MAP_UNPROTECTED, rd, SHARED, 3, desc)
        return rd

    def not_ns(self) -> int:
        """Return a granule that is the host's by its state, but not by the GPT."""
        pa = self.world.ns_granule()
        self.world.machine.gpt[(pa - DRAM_BASE) // PAGE] = Pas.SECURE
        return pa

    def realm_params(self, **changes: int) -> int:
        """Return a granule with parameters of a realm."""
        changes.setdefault("vmid", 10)
        good = self.world.realm_params(vmid=10)
        for name, value in changes.items():
            setattr(good, name, value)
        return self.world.ns_granule(good.data)

    def rec_params(self, *aux: int, **changes: int) -> int:
        """Return a granule with parameters of the next REC of the realm."""
        params = self.world.rec_params(**{"mpidr": 1, **changes})
        params.aux = (*aux, *params.aux[len(aux) :])
        return self.world.ns_granule(params.data)


Value = int | Callable[[Stage], int]


@dataclass(frozen=True)
class Failure:
    """A condition: its name in the specification, the answer, and what breaks it."""

    name: str
    result: tuple[int, ...]
    changes: Mapping[str, Value] = field(default_factory=dict)
    before: Callable[[Stage, list[int]], object] | None = None  # gets the command's arguments


def granule(name: str, wrong: Value) -> list[Failure]:
    """Return the three rows of every argument that is a granule."""
    return [
        Failure(f"{name}_align", INPUT, {name: lambda stage: stage.delegated + 0x800}),
        Failure(f"{name}_bound", INPUT, {name: DRAM_BASE + DRAM_SIZE}),
        Failure(f"{name}_state", INPUT, {name: wrong}),
    ]


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


def run(stage: Stage, args: list[int]) -> None:
    """Make the command's REC run."""
    for pa in args:
        if pa in stage.world.rmm.recs:
            stage.world.rmm.recs[pa].running = True


def system_off(stage: Stage, _args: list[int]) -> None:
    """Make the active realm turn itself off."""
    stage.world.enter(stage.idle, smc(PsciFid.SYSTEM_OFF))


def fill(stage: Stage, _args: list[int]) -> None:
    """Give the realm the maximum number of RECs."""
    realm = stage.world.rmm.realms[stage.rd]
    realm.num_recs = realm.num_live_recs = 1023


def realm_with(**changes: Value) -> Callable[[Stage], int]:
    """Return a function that makes parameters of a realm."""
    return lambda stage: stage.realm_params(**{n: get(stage, v) for n, v in changes.items()})


def rec_with(*aux: Value, **changes: int) -> Callable[[Stage], int]:
    """Return a function that makes parameters of a REC."""
    return lambda stage: stage.rec_params(*(get(stage, pa) for pa in aux), **changes)


def run_with(**fields: int | tuple[int, ...]) -> Callable[[Stage], int]:
    """Return a function that makes a granule for an entry."""
    return lambda stage: stage.world.ns_granule(RecEnter.of(**fields).data)


def get(stage: Stage, value: Value) -> int:
    """Return an argument."""
    return value(stage) if callable(value) else value


def bad_realms() -> list[Failure]:
    """Return a row for each parameter of a realm that can be wrong."""
    changes: list[dict[str, int]] = [
        {"flags": 1}, {"flags": 2}, {"flags": 4}, {"s2sz": 31}, {"s2sz": 49}, {"num_bps": 0},
        {"num_bps": 6}, {"num_wps": 0}, {"num_wps": 4}, {"hash_algo": 2}, {"rtt_level_start": 0},
        {"rtt_level_start": 2}, {"rtt_level_start": 3}, {"rtt_num_start": 0}, {"rtt_num_start": 2},
        {"vmid": 8}, {"rtt_base": DRAM_BASE + DRAM_SIZE}, {"s2sz": 40}, {"rtt_level_start": -1},
    ]  # fmt: skip
    return [
        Failure(f"params {change}", INPUT, {"params_ptr": realm_with(**change)})
        for change in changes
    ]


def gic() -> list[Failure]:
    """Return a row for each forbidden setting of the virtual CPU interface."""
    pending = 1 << 62
    lrs = (pending | 1 << 61, pending | 1 << 32, pending | 1 << 48, pending | 1020)
    return [
        *(
            Failure(f"gicv3_hcr {bit}", REC, {"run_ptr": run_with(gicv3_hcr=1 << bit)})
            for bit in (0, 8, 13, 15, 31, 63)
        ),
        *(
            Failure(f"gicv3_lrs {lr:#x}", REC, {"run_ptr": run_with(gicv3_lrs=(lr, *[0] * 15))})
            for lr in lrs
        ),
    ]


def levels(*bad: int) -> list[Failure]:
    """Return a row for each invalid level."""
    return [
        Failure(f"level_bound {level}", INPUT, {"level": level & MASK64})
        for level in (*bad, 4, -1, 1 << 32 | 3)
    ]


RD_ROWS = granule("rd", delegated)
PAGE_IPA = [
    Failure("ipa_align", INPUT, {"ipa": FREE + 0x800}),
    Failure("ipa_align", INPUT, {"ipa": FREE + 1}),
    Failure("ipa_bound", INPUT, {"ipa": UNPROTECTED}),
    Failure("ipa_bound", INPUT, {"ipa": MASK64 & -PAGE}),
]
TABLE_IPA = [
    *levels(0, 1),
    Failure("ipa_align", INPUT, {"ipa": EMPTY_TABLE + PAGE}),
    Failure("ipa_align", INPUT, {"ipa": EMPTY_TABLE + 1}),
    Failure("ipa_bound", INPUT, {"ipa": OUTSIDE}),
]
UNPROTECTED_IPA = [
    *levels(0),
    Failure("ipa_align", INPUT, {"ipa": UNSHARED + 0x800}),
    Failure("ipa_align", INPUT, {"ipa": UNSHARED + 1}),
    Failure("ipa_bound", INPUT, {"ipa": FREE}),
    Failure("ipa_bound", INPUT, {"ipa": OUTSIDE}),
]
RANGE = [
    Failure("size_valid", INPUT, {"top": FREE}),
    Failure("size_valid", INPUT, {"top": RAM}),
]

#: Arguments that succeed, then the rows.
TABLES: dict[RmiFid, tuple[dict[str, Value], list[Failure]]] = {
    RmiFid.RMI_VERSION: (
        {"req": 0x1_0000},
        [Failure("req", (1, 0x1_0000, 0x1_0000, 0, 0), {"req": 0x1_0001})],
    ),
    RmiFid.RMI_FEATURES: ({"index": 1}, []),
    RmiFid.RMI_GRANULE_DELEGATE: (
        {"addr": ns},
        [*granule("addr", delegated), Failure("gran_pas", INPUT, {"addr": Stage.not_ns})],
    ),
    RmiFid.RMI_GRANULE_UNDELEGATE: ({"addr": delegated}, granule("addr", ns)),
    RmiFid.RMI_DATA_CREATE: (
        {"rd": rd, "data": delegated, "ipa": FREE, "src": ns, "flags": 1},
        [
            Failure("flags", INPUT, {"flags": 2}),
            Failure("flags", INPUT, {"flags": 1 << 63}),
            *granule("src", delegated),
            *granule("data", ns),
            *RD_ROWS,
            Failure("realm_state", REALM, {"rd": active}),
            *PAGE_IPA,
            Failure("rtt_walk", rtt(1), {"ipa": NO_TABLES}),
            Failure("rtt_walk", rtt(2), {"ipa": NO_TABLE}),
            Failure("rtte_state", rtt(3), {"ipa": ASSIGNED}),
            Failure("src_pas", INPUT, {"src": Stage.not_ns}),
        ],
    ),
    RmiFid.RMI_DATA_CREATE_UNKNOWN: (
        {"rd": active, "data": delegated, "ipa": FREE},
        [
            *granule("data", ns),
            *RD_ROWS,
            *PAGE_IPA,
            Failure("rtt_walk", rtt(1), {"ipa": NO_TABLES}),
            Failure("rtt_walk", rtt(2), {"ipa": NO_TABLE}),
            Failure("rtte_state", rtt(3), {"ipa": ASSIGNED}),
        ],
    ),
    RmiFid.RMI_DATA_DESTROY: (
        {"rd": active, "ipa": ASSIGNED},
        [
            *RD_ROWS,
            *PAGE_IPA,
            Failure("rtt_walk", rtt(1, 0, UNPROTECTED), {"ipa": NO_TABLES}),
            Failure("rtt_walk", rtt(2, 0, GIB), {"ipa": NO_TABLE}),
            Failure("rtte_state", rtt(3, 0, ASSIGNED), {"ipa": RAM}),
            Failure("rtte_state", rtt(3, 0, MIB2), {"ipa": FREE}),
        ],
    ),
    RmiFid.RMI_REALM_ACTIVATE: (
        {"rd": rd},
        [*RD_ROWS, Failure("realm_state", REALM, {"rd": active})],
    ),
    RmiFid.RMI_REALM_CREATE: (
        {"rd": delegated, "params_ptr": Stage.realm_params},
        [
            *granule("params_ptr", delegated),
            Failure("params_pas", INPUT, {"params_ptr": Stage.not_ns}),
            *granule("rd", ns),
            *bad_realms(),
            Failure("alias", INPUT, {"params_ptr": realm_with(rtt_base=delegated)}),
            Failure("rtt_state", INPUT, {"params_ptr": realm_with(rtt_base=ns)}),
        ],
    ),
    RmiFid.RMI_REALM_DESTROY: (
        {"rd": lambda stage: stage.empty},
        [
            *RD_ROWS,
            Failure("realm_live RTT", REALM, {"rd": rd}),
            Failure(
                "realm_live REC",
                REALM,
                before=lambda stage, _: stage.world.rec(stage.empty),
            ),
        ],
    ),
    RmiFid.RMI_REC_CREATE: (
        {"rd": rd, "rec": delegated, "params_ptr": Stage.rec_params},
        [
            *granule("params_ptr", delegated),
            Failure("params_pas", INPUT, {"params_ptr": Stage.not_ns}),
            Failure("num_aux", INPUT, {"params_ptr": rec_with(num_aux=17)}),
            *granule("rec", ns),
            Failure("aux_align", INPUT, {"params_ptr": rec_with(lambda stage: stage.ns + 8)}),
            Failure("aux_bound", INPUT, {"params_ptr": rec_with(MASK64 & -PAGE)}),
            Failure("aux_state", INPUT, {"params_ptr": rec_with(ns)}),
            Failure("aux_alias", INPUT, {"params_ptr": rec_with(delegated)}),
            *RD_ROWS,
            Failure("realm_state", REALM, {"rd": active}),
            Failure("mpidr", INPUT, {"params_ptr": rec_with(mpidr=2)}),
            Failure("mpidr", INPUT, {"params_ptr": rec_with(mpidr=0x11)}),
            Failure("num_aux", INPUT, {"params_ptr": rec_with(num_aux=1)}),
            Failure("num_recs", REALM, {"params_ptr": rec_with(mpidr=0x3F0F)}, fill),
        ],
    ),
    RmiFid.RMI_REC_DESTROY: (
        {"rec": lambda stage: stage.idle},
        [*granule("rec", delegated), Failure("rec_state", REC, before=run)],
    ),
    RmiFid.RMI_REC_ENTER: (
        {"rec": lambda stage: stage.idle, "run_ptr": lambda stage: stage.run},
        [
            *granule("run_ptr", delegated),
            Failure("run_pas", INPUT, {"run_ptr": Stage.not_ns}),
            *granule("rec", delegated),
            Failure("rec_state", REC, before=run),
            Failure("realm_state NEW", REALM, {"rec": lambda stage: stage.rec}),
            Failure("realm_state SYSTEM_OFF", REALM_OFF, before=system_off),
            Failure("rec_runnable", REC, {"rec": lambda stage: stage.off}),
            Failure("rec_psci", REC, {"rec": lambda stage: stage.asking}),
            *gic(),
            Failure("rec_sea", REC, {"run_ptr": run_with(flags=RecEnterFlags.INJECT_SEA)}),
            Failure("rec_mmio", REC, {"run_ptr": run_with(flags=RecEnterFlags.EMUL_MMIO)}),
            Failure(
                "rec_mmio ISV",
                REC,
                {
                    "rec": lambda stage: stage.stuck,
                    "run_ptr": run_with(flags=RecEnterFlags.EMUL_MMIO),
                },
            ),
        ],
    ),
    RmiFid.RMI_RTT_CREATE: (
        {"rd": active, "rtt": delegated, "ipa": NO_TABLE, "level": 3},
        [
            *granule("rtt", ns),
            *RD_ROWS,
            *TABLE_IPA,
            Failure("rtt_walk", rtt(1), {"ipa": NO_TABLES}),
            Failure("rtte_state", rtt(2), {"ipa": EMPTY_TABLE}),
            Failure("rtte_state", rtt(1), {"ipa": 0, "level": 2}),
        ],
    ),
    RmiFid.RMI_RTT_DESTROY: (
        {"rd": active, "ipa": EMPTY_TABLE, "level": 3},
        [
            *RD_ROWS,
            *TABLE_IPA,
            Failure("rtt_walk", rtt(1, 0, UNPROTECTED), {"ipa": NO_TABLES}),
            Failure("rtt_walk", rtt(1, 0, TABLE_END), {"ipa": UNPROTECTED + GIB}),
            Failure("rtte_state", rtt(2, 0, GIB), {"ipa": NO_TABLE}),
            Failure("rtt_live", rtt(3, 0, 0), {"ipa": LIVE_TABLE}),
            Failure("rtt_live", rtt(2, 0, UNPROTECTED), {"ipa": UNPROTECTED, "level": 2}),
            Failure("rtt_live", rtt(2, 0, 0), {"ipa": 0, "level": 2}),
        ],
    ),
    RmiFid.RMI_RTT_FOLD: (
        {"rd": active, "ipa": EMPTY_TABLE, "level": 3},
        [
            *RD_ROWS,
            *TABLE_IPA,
            Failure("rtt_walk", rtt(1), {"ipa": NO_TABLES}),
            Failure("rtte_state", rtt(2), {"ipa": NO_TABLE}),
            Failure("rtt_homo", rtt(3), {"ipa": LIVE_TABLE}),
            Failure("rtt_homo", rtt(2), {"ipa": 0, "level": 2}),
        ],
    ),
    RmiFid.RMI_RTT_READ_ENTRY: (
        {"rd": active, "ipa": ASSIGNED, "level": 3},
        [
            *RD_ROWS,
            *levels(0),
            Failure("ipa_align", INPUT, {"ipa": ASSIGNED + 0x800}),
            Failure("ipa_align", INPUT, {"ipa": ASSIGNED + 1}),
            Failure("ipa_align", INPUT, {"level": 2}),
            Failure("ipa_bound", INPUT, {"ipa": OUTSIDE}),
        ],
    ),
    RmiFid.RMI_RTT_MAP_UNPROTECTED: (
        {"rd": active, "ipa": UNSHARED, "level": 3, "desc": WRITE_BACK_RW},
        [
            *RD_ROWS,
            *UNPROTECTED_IPA,
            Failure("desc MemAttr", INPUT, {"desc": 4 << 2}),
            *(Failure(f"desc {bit}", INPUT, {"desc": 1 << bit}) for bit in (0, 1, 5, 8, 9, 10, 11)),
            *(Failure(f"desc {bit}", INPUT, {"desc": 1 << bit}) for bit in (48, 53, 54, 55, 63)),
            Failure("desc OA", INPUT, {"ipa": UNPROTECTED, "level": 2, "desc": PAGE}),
            Failure("rtt_walk", rtt(1), {"ipa": UNPROTECTED + GIB}),
            Failure("rtte_state", rtt(3), {"ipa": SHARED}),
            Failure("rtte_state", rtt(2), {"ipa": UNPROTECTED, "level": 2}),
        ],
    ),
    RmiFid.RMI_RTT_UNMAP_UNPROTECTED: (
        {"rd": active, "ipa": SHARED, "level": 3},
        [
            *RD_ROWS,
            *UNPROTECTED_IPA,
            Failure("rtt_walk", rtt(1, TABLE_END), {"ipa": UNPROTECTED + GIB}),
            Failure("rtt_walk", rtt(2, UNPROTECTED + GIB), {"ipa": UNPROTECTED + MIB2}),
            Failure("rtte_state", rtt(3, SHARED), {"ipa": UNPROTECTED}),
            Failure("rtte_state", rtt(3, UNPROTECTED + MIB2), {"ipa": UNSHARED}),
            Failure("rtte_state", rtt(2, UNPROTECTED), {"ipa": UNPROTECTED, "level": 2}),
        ],
    ),
    RmiFid.RMI_PSCI_COMPLETE: (
        {"calling_rec": lambda s: s.asking, "target_rec": lambda s: s.off, "status": 0},
        [
            *granule("calling_rec", delegated),
            *granule("target_rec", delegated),
            Failure("alias", INPUT, {"target_rec": lambda stage: stage.asking}),
            Failure("owner", INPUT, {"target_rec": lambda stage: stage.rec}),
            Failure("pending", INPUT, {"calling_rec": lambda stage: stage.idle}),
            Failure("target", INPUT, {"target_rec": lambda stage: stage.changing}),
            Failure("status", INPUT, {"status": 1}),
            Failure("status", INPUT, {"status": PsciReturn.ALREADY_ON.x0}),
            Failure("status", INPUT, {"status": DENIED & 0xFFFF_FFFF}),
        ],
    ),
    RmiFid.RMI_REC_AUX_COUNT: ({"rd": rd}, RD_ROWS),
    RmiFid.RMI_RTT_INIT_RIPAS: (
        {"rd": rd, "base": FREE, "top": FREE + PAGE},
        [
            *RANGE,
            *RD_ROWS,
            Failure("base_align", INPUT, {"base": FREE - 0x800}),
            Failure("base_align", INPUT, {"base": FREE + 1}),
            Failure("top_align", INPUT, {"top": FREE + 0x800}),
            Failure("top_align", INPUT, {"top": FREE + PAGE + 1}),
            Failure("top_bound", INPUT, {"top": UNPROTECTED + PAGE}),
            Failure("top_bound", INPUT, {"top": MASK64 & -PAGE}),
            Failure("realm_state", REALM, {"rd": active}),
            Failure("base_align", rtt(2), {"base": NO_TABLE + PAGE, "top": NO_TABLE + 2 * MIB2}),
            Failure("base_align", rtt(1), {"base": NO_TABLES + MIB2, "top": 3 * GIB}),
            Failure("progress", rtt(2), {"base": NO_TABLE, "top": NO_TABLE + PAGE}),
            Failure("progress", rtt(3), {"base": ASSIGNED, "top": ASSIGNED + PAGE}),
        ],
    ),
    RmiFid.RMI_RTT_SET_RIPAS: (
        {"rd": active, "rec": lambda s: s.changing, "base": FREE, "top": FREE + PAGE},
        [
            *RANGE,
            *RD_ROWS,
            *granule("rec", delegated),
            Failure("rec_state", REC, before=run),
            Failure("rec_owner", REC, {"rd": rd}),
            Failure("pending", INPUT, {"rec": lambda stage: stage.idle}),
            Failure("base_bound", INPUT, {"base": RAM}),
            Failure("base_bound", INPUT, {"base": FREE + PAGE, "top": FREE + 2 * PAGE}),
            Failure("top_bound", INPUT, {"top": FREE + 5 * PAGE}),
            Failure("top_align", INPUT, {"top": FREE + 0x800}),
            Failure("top_align", INPUT, {"top": FREE + PAGE + 1}),
        ],
    ),
}

ROWS = [(fid, failure) for fid, (_, failures) in TABLES.items() for failure in failures]
PAIRS = [
    (fid, first, second)
    for fid, (_, failures) in TABLES.items()
    for first, second in combinations(failures, 2)
    if first.result != second.result
    and not set(first.changes) & set(second.changes)
    and not (first.before and second.before)
]


def issue(fid: RmiFid, *failures: Failure) -> tuple[tuple[int, ...], bool]:
    """Issue a command with some conditions broken; return x0 to x4 and whether nothing changed."""
    stage, (arguments, _) = Stage(), TABLES[fid]
    for failure in failures:
        arguments = {**arguments, **failure.changes}
    args = [get(stage, value) for value in arguments.values()]
    for failure in failures:
        if failure.before is not None:
            failure.before(stage, args)
    before = stage.world.snapshot()
    results = stage.world.call(fid, *args)
    return results, stage.world.snapshot() == before


def name(value: object) -> str | None:
    """Return a short name of a parameter."""
    if isinstance(value, Failure):
        return value.name.replace(" ", "-")
    return value.name if isinstance(value, RmiFid) else None


def test_every_command_has_its_table() -> None:
    """All 23, each with its arguments."""
    assert set(TABLES) == set(RmiFid)
    for fid, (arguments, _) in TABLES.items():
        assert tuple(arguments) == RMI_1_0[fid].parameters


@pytest.mark.parametrize("fid", TABLES, ids=name)
def test_command_succeeds(fid: RmiFid) -> None:
    """Otherwise a failure below might have another cause than its row."""
    assert issue(fid)[0][0] == 0


@pytest.mark.parametrize(("fid", "failure"), ROWS, ids=name)
def test_command_fails(fid: RmiFid, failure: Failure) -> None:
    """Status, index and outputs are those of the row, and nothing has changed."""
    assert issue(fid, failure) == (failure.result, True)


@pytest.mark.parametrize("fid", TABLES, ids=name)
def test_first_failure_decides(fid: RmiFid) -> None:
    """Of two broken conditions, the first one in the specification determines the result."""
    for each, first, second in PAIRS:
        if each is fid:
            assert issue(fid, first, second) == (first.result, True), (first.name, second.name)
