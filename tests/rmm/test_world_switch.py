"""A PE carries from one world to another only the registers that the specification lists.

One party fills every register that it can write with secrets and leaves; another one then runs on
the same PE, dumps every register that it can read, and finds what it would have found on a new
machine.  The host finds in the exit what the specification lists, and the realm in its registers
what it left there.
"""

import struct
from dataclasses import dataclass
from typing import Final

import pytest
from pyvmm.core._core import ffi

from pyvmm.arch import machine
from pyvmm.arch.bits import MASK32
from pyvmm.arch.esr import ExceptionClass, hpfar_of, sysreg_key
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.pmu import NUM_EVENT_COUNTERS
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import (
    EXIT_OFFSET,
    RealmFlags,
    RecEnter,
    RecEnterFlags,
    RecExit,
    RecExitReason,
    RmiFid,
)
from pyvmm.arch.rsi import HostCall, RsiFid
from pyvmm.arch.sysregs import EL1_READ, EL1_WRITE, SYSREGS, SysReg
from pyvmm.core import PeContext
from tests.core.program import assemble
from tests.rmm.core_world import CoreWorld
from tests.rmm.world import FakeExit, Step, abort, smc, sysreg, trap

PAGE: Final = GRANULE_SIZE
BASE: Final = 0x4000_0000  # where a realm has its code, its data and a page to probe
SIBLING: Final = 0x1_0000  # from there on, those of the second REC of a realm
UNPROTECTED: Final = 1 << 32
MISSING: Final = BASE + 0x20_0000 - PAGE  # RAM without a page
SECRET: Final = 0x5EC2_E75E
WFI_EXIT: Final = int(ExceptionClass.WFX) << 26
MSR, MRS = 0xD500_0000, 0xD520_0000
ALIGN: Final = "add {0}, {0}, #15; and {0}, {0}, #~15"  # with the MMU off, all is Device memory

#: What cannot be written with anything, ends the program, or would make it count.
NOT_WRITTEN = {"SCTLR_EL1", "SPSel", "ICC_DIR_EL1", "CPACR_EL1", "PMCR_EL0"}
#: What no two reads agree about.
NOT_COMPARED = {"CNTPCT_EL0", "CNTVCT_EL0", "RNDR", "RNDRRS", "CNTP_TVAL_EL0", "CNTV_TVAL_EL0"}
TIMER_CONTROLS = {"CNTP_CTL_EL0", "CNTV_CTL_EL0"}  # written with ENABLE and IMASK
MDSCR_SS = 1  # a software step would end the program
NEEDS_FP = {"FPCR", "FPSR"}
WRITTEN = [
    reg
    for reg in SYSREGS
    if reg.access & EL1_WRITE and reg.name not in NOT_WRITTEN and "SGI" not in reg.name
]
READ = sorted(
    (reg for reg in SYSREGS if reg.access & EL1_READ and reg.name not in NOT_COMPARED),
    key=lambda reg: reg.name in NEEDS_FP,
)


def secret(number: int) -> int:
    """Return a value that does not occur by chance."""
    return SECRET << 32 | (number * 0x0101_0107 & MASK32)


def word(base: int, reg: SysReg, rt: int) -> str:
    """Return an MSR or MRS."""
    return f".word {base | (reg.encoding & 0xFFFF) << 5 | rt:#x}"


def move(register: str, value: int) -> str:
    """Return code that sets a register."""
    parts = [f"movz {register}, #{value & 0xFFFF:#x}"]
    parts += [f"movk {register}, #{value >> n & 0xFFFF:#x}, lsl #{n}" for n in (16, 32, 48)]
    return "; ".join(parts)


def hide(base: int, action: str) -> tuple[bytes, bytes]:
    """Return code that fills all registers with secrets and then does something, and its data."""
    values = [3 if reg.name in TIMER_CONTROLS else secret(n) for n, reg in enumerate(WRITTEN)]
    values[[reg.name for reg in WRITTEN].index("MDSCR_EL1")] &= ~MDSCR_SS
    sp, v = secret(100), [secret(200 + n) for n in range(64)]
    x = [secret(300 + n) for n in range(31)]
    text = [
        move("x29", base + PAGE),
        move("x0", 3 << 20),
        "msr cpacr_el1, x0; isb",
        move("x1", base + 2 * PAGE),
        "ldr x2, [x1]; str x2, [x1, #8]; add x1, x1, #16; ldxr x2, [x1]",
        *(f"ldr x0, [x29], #8; {word(MSR, reg, 0)}" for reg in WRITTEN),
        "ldr x0, [x29], #8; mov sp, x0",
        ALIGN.format("x29"),
        *(f"ldp q{n}, q{n + 1}, [x29], #32" for n in range(0, 32, 2)),
        *(f"ldp x{n}, x{n + 1}, [x29, #{8 * n}]" for n in range(0, 28, 2)),
        "ldr x28, [x29, #224]; ldr x30, [x29, #240]; ldr x29, [x29, #232]",
        action,
    ]
    scalars = [*values, sp, *[0] * (len(WRITTEN) % 2 == 0)]
    data = [*scalars, *v, *x]
    return assemble("\n".join(text)), struct.pack(f"<{len(data)}Q", *data)


def look(base: int) -> bytes:
    """Return code that dumps all that it can read, and stops."""
    enable_fp = f"{move('x0', 3 << 20)}; msr cpacr_el1, x0; isb"
    text = [
        move("x30", base + PAGE),
        *(f"stp x{n}, x{n + 1}, [x30], #16" for n in range(0, 30, 2)),
        "mov x0, sp; str x0, [x30], #8",
    ]
    for reg in READ:
        text += [enable_fp] if reg.name == "FPCR" else []
        text += [word(MRS, reg, 0), "str x0, [x30], #8"]
    text += [ALIGN.format("x30")]
    text += [f"stp q{n}, q{n + 1}, [x30], #32" for n in range(0, 32, 2)]
    text += [move("x1", base + 2 * PAGE), "ldr x2, [x1]; str x2, [x30], #8"]
    text += ["add x1, x1, #16; stxr w3, x2, [x1]; str x3, [x30], #8"]
    return assemble("\n".join([*text, move("x0", PsciFid.CPU_OFF), "smc #0"]))


@dataclass
class Party:
    """A party that runs code on a PE: its context, its memory, and the REC of a realm."""

    context: PeContext
    pages: list[int]  # code, data, probe: physical addresses
    pas: Pas
    rec: int = 0

    def state(self) -> bytes:
        """Return all of its registers, but what time and the exit itself change."""
        copy = ffi.new("struct pe_state *", self.context[0])
        copy.cntv_ctl &= 3
        copy.cntp_ctl &= 3
        copy.excl_va = copy.excl_size = 0
        copy.excl_value = (0, 0)
        return bytes(ffi.buffer(copy))


class Stage:
    """A machine with two realms, one of them with two RECs, and a context of the normal world."""

    def __init__(self, actor: str, observer: str, action: str = "wfi; wfi; b #0") -> None:
        """Make all parties, whichever the test uses."""
        self.world = CoreWorld(is_scripted=False)
        self.run_pa = self.world.ns_granule()
        pmu = {"flags": int(RealmFlags.PMU), "pmu_num_ctrs": NUM_EVENT_COUNTERS}
        self.rds = [self.world.realm(vmid=vmid, depth=1, **pmu) for vmid in (1, 2)]
        for rd in self.rds:
            self.world.tables(rd, BASE, (2, 3))
        kinds = {
            "realm": (0, 0), "other realm": (1, 0), "sibling": (0, SIBLING), "normal world": None,
        }  # fmt: skip
        code = {actor: ("hide", action), observer: ("look", "")}
        self.parties = {}
        for kind, place in kinds.items():
            what, text = code.get(kind, ("look", ""))
            self.parties[kind] = (
                self._ns(what, text) if place is None else self._rec(*place, what, text)
            )
        for rd in self.rds:
            self.world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, MISSING, MISSING + PAGE)
            self.world.do(RmiFid.RMI_REALM_ACTIVATE, rd)

    @staticmethod
    def _pages(base: int, what: str, action: str) -> list[bytes]:
        code, data = hide(base, action) if what == "hide" else (look(base), b"")
        return [code, data, struct.pack("<Q", secret(999)) if what == "hide" else b""]

    def _rec(self, index: int, offset: int, what: str, action: str) -> Party:
        """Make a REC with its three pages."""
        world, rd, base = self.world, self.rds[index], BASE + offset
        pas = []
        for n, page in enumerate(self._pages(base, what, action)):
            assert len(page) <= PAGE
            pas.append(world.delegated())
            ipa = base + n * PAGE
            world.do(RmiFid.RMI_DATA_CREATE, rd, pas[-1], ipa, world.ns_granule(page), 0)
        rec = world.rec(rd, pc=base, mpidr=int(offset != 0))
        return Party(world.rmm.recs[rec].context, pas, Pas.REALM, rec)

    def _ns(self, what: str, action: str) -> Party:
        """Make a context of the normal world, without stage 2."""
        world = self.world
        pas = [world.ns_granule() for _ in range(3)]
        for pa, page in zip(pas, self._pages(pas[0], what, action), strict=True):
            world.ns.write(pa, page)
        context = world.core.new_context()
        context.security, context.pc = Pas.NS, pas[0]
        context.hcr_el2 = HCR_EL2.of(RW=1, TSC=1, TWI=1, APK=1, API=1)
        return Party(context, pas, Pas.NS)

    def run(self, party: Party) -> RecExit | None:
        """Run a party on PE 0 until it exits; return the host's view of a realm's exit."""
        if party.rec == 0:
            leave = self.world.core.pe(0).run(party.context, 1 << 20)
            assert leave.reason == ExitReason.SYNC
            if leave.esr >> 26 == ExceptionClass.WFX:
                party.context.pc += 4
            return None
        enter = RecEnter.of(flags=RecEnterFlags.TRAP_WFI)
        self.world.ns.write(self.run_pa, enter.data)
        self.world.do(RmiFid.RMI_REC_ENTER, party.rec, self.run_pa)
        return RecExit(self.world.ns.read(self.run_pa + EXIT_OFFSET, RecExit.size))

    def look(self, observer: str) -> tuple[bytes, bytes]:
        """Run the observer; return its dump and its registers."""
        party = self.parties[observer]
        self.run(party)
        assert party.context.x[3] == 1  # its exclusive store was refused
        return self.world.core.memory(party.pas).read(party.pages[1], PAGE), party.state()


PAIRS = [
    ("realm", "other realm"), ("realm", "sibling"), ("sibling", "realm"),
    ("realm", "normal world"), ("normal world", "realm"),
]  # fmt: skip


@pytest.mark.parametrize(("actor", "observer"), PAIRS)
def test_no_register_of_one_world_is_visible_in_another(actor: str, observer: str) -> None:
    """Whatever ran before on this PE, an observer finds the registers of a new machine."""
    stage = Stage(actor, observer)
    alone = stage.look(observer)
    stage = Stage(actor, observer)
    acting = stage.parties[actor]
    stage.run(acting)
    kept = acting.state()
    assert acting.context.x[7] == secret(307)
    assert stage.look(observer) == alone
    assert struct.pack("<I", SECRET) in kept
    assert struct.pack("<I", SECRET) not in b"".join(alone)
    stage.run(acting)
    acting.context.pc -= 4  # the second WFI is behind it, and nothing else has changed
    assert acting.state() == kept


# --- what the host sees -----------------------------------------------------------------------

STORED, ADDRESS = secret(307), UNPROTECTED + 0xABC  # x7 is what the accesses are about

DABT, IABT = (
    int(ExceptionClass.DATA_ABORT_LOWER) << 26,
    int(ExceptionClass.INSTRUCTION_ABORT_LOWER) << 26,
)
ISV, SAS_WORD, WNR, SF = 1 << 24, 2 << 22, 1 << 6, 1 << 15
SGI = int(ExceptionClass.SYSREG) << 26 | 1 << 25 | sysreg_key(3, 0, 12, 11, 5) | 7 << 5
SYNC = int(RecExitReason.SYNC)


def at(address: int, action: str) -> str:
    """Return an action on an address, which is in x6."""
    return f"{move('x6', address)}; {action}"


def call(fid: int, *args: int) -> str:
    """Return an SMC."""
    moves = [move(f"x{n}", value) for n, value in enumerate((fid, *args))]
    return "; ".join([*moves, "smc #0"])


#: What a realm does, and all that the host sees of it, timers and virtual interrupts aside.
EXITS: Final[dict[str, tuple[str, dict[str, int | tuple[int, ...]]]]] = {
    "WFI": ("wfi", {"exit_reason": SYNC, "esr": WFI_EXIT}),
    "missing page": (
        at(MISSING + 0x678, "str x7, [x6]"),
        {"exit_reason": SYNC, "esr": DABT | 7, "hpfar": hpfar_of(MISSING)},
    ),
    "missing code": (
        at(MISSING, "br x6"),
        {"exit_reason": SYNC, "esr": IABT | 7, "hpfar": hpfar_of(MISSING)},
    ),
    "device store": (
        at(ADDRESS, "str w7, [x6]"),
        {
            "exit_reason": SYNC,
            "esr": DABT | ISV | SAS_WORD | WNR | 5,
            "far": 0xABC,
            "hpfar": hpfar_of(ADDRESS),
            "gprs": (STORED & MASK32, *[0] * 30),
        },
    ),
    "device load": (
        at(ADDRESS, "ldrsw x7, [x6]"),
        {
            "exit_reason": SYNC,
            "esr": DABT | ISV | SAS_WORD | SF | 5,
            "far": 0xABC,
            "hpfar": hpfar_of(ADDRESS),
        },
    ),
    "device pair": (
        at(ADDRESS + 4, "stp x7, x8, [x6]"),
        {"exit_reason": SYNC, "esr": DABT | WNR | 5, "far": 0xAC0, "hpfar": hpfar_of(ADDRESS)},
    ),
    "SGI": (
        "msr s3_0_c12_c11_5, x7",
        {"exit_reason": SYNC, "esr": SGI, "gprs": (STORED, *[0] * 30)},
    ),
    "RIPAS change": (
        call(RsiFid.RSI_IPA_STATE_SET, BASE, MISSING, 1, 0),
        {
            "exit_reason": int(RecExitReason.RIPAS_CHANGE),
            "ripas_base": BASE,
            "ripas_top": MISSING,
            "ripas_value": 1,
        },
    ),
    "suspend": (
        call(PsciFid.CPU_SUSPEND_64, 11, 12, 13),
        {
            "exit_reason": int(RecExitReason.PSCI),
            "gprs": (int(PsciFid.CPU_SUSPEND_64), 11, 12, 13, *[0] * 27),
        },
    ),
    "off": (
        call(PsciFid.CPU_OFF),
        {"exit_reason": int(RecExitReason.PSCI), "gprs": (int(PsciFid.CPU_OFF), *[0] * 30)},
    ),
    "host call": (
        call(RsiFid.RSI_HOST_CALL, BASE + 2 * PAGE + 0x100),
        {"exit_reason": int(RecExitReason.HOST_CALL)},
    ),
    "interrupt": ("b #0", {"exit_reason": int(RecExitReason.IRQ)}),
    "HVC, then WFI": ("hvc #3", {"exit_reason": SYNC, "esr": WFI_EXIT}),
}
OF_TIMERS_AND_GIC = ("cntp_ctl", "cntp_cval", "cntv_ctl", "cntv_cval", "gicv3_vmcr")


@pytest.mark.parametrize("name", EXITS)
def test_host_sees_what_the_specification_lists(name: str) -> None:
    """The whole exit record, while every register of the realm holds a secret."""
    action, fields = EXITS[name]
    # VBAR_EL1 is a secret as well: the vector is made to lie in the page of code.
    vbar = f"{move('x5', BASE + 0x800)}; msr vbar_el1, x5"
    stage = Stage("realm", "other realm", f"{vbar}; {action}")
    party = stage.parties["realm"]
    stage.world.realm_memory.write(party.pages[0] + 0xA00, assemble("wfi"))
    if name == "interrupt":
        stage.world.core.pe(0).kick()
    leave = stage.run(party)
    if name == "interrupt":  # the kick ended the run before its first instruction
        kicked, leave = leave, None
        assert kicked is not None
        assert kicked.exit_reason == RecExitReason.IRQ
        stage.world.core.pe(0).run(party.context, 2000)
        stage.world.core.pe(0).kick()
        leave = stage.run(party)
    assert leave is not None
    assert party.context.x[20] == secret(320)
    expected = RecExit.of(**fields)
    for field in OF_TIMERS_AND_GIC:
        setattr(expected, field, getattr(leave, field))
    assert bytes(leave) == bytes(expected)
    assert leave.cntv_ctl & 3 == leave.cntp_ctl & 3 == 3


# --- what the realm gets ----------------------------------------------------------------------

FROM_HOST: Final = 0x4057_4057_4057_4057
HOST_CALL_IPA: Final = PAGE


def changes(old: bytes, new: bytes) -> set[str]:
    """Name the registers of two contexts that differ."""
    a, b = (ffi.from_buffer("struct pe_state *", data) for data in (old, new))
    found = set()
    for name, field in ffi.typeof("struct pe_state").fields:
        if field.type.kind == "array":
            pairs = enumerate(zip(getattr(a, name), getattr(b, name), strict=True))
            found |= {f"{name}{n}" for n, (x, y) in pairs if x != y}
        elif getattr(a, name) != getattr(b, name):
            found.add(name)
    return found


LEAVES: Final[dict[str, tuple[Step, set[str]]]] = {
    "interrupt": (lambda _: FakeExit(), set()),
    "WFI": (trap(ExceptionClass.WFX), {"pc"}),
    "missing page": (abort(2 * PAGE, WnR=1, ISV=1, SRT=7), set()),
    "device store": (abort(UNPROTECTED, WnR=1, ISV=1, SAS=2, SRT=7), {"pc"}),
    "device load": (abort(UNPROTECTED, ISV=1, SAS=3, SF=1, SRT=7), {"pc", "x7"}),
    "device load, not emulated": (abort(UNPROTECTED, ISV=1, SAS=3, SF=1, SRT=7), set()),
    "SGI": (sysreg(3, 0, 12, 11, 5, rt=7, read=False), {"pc"}),
    "trapped read": (sysreg(3, 0, 12, 11, 5, rt=7, read=True), {"pc", "x7"}),
    "RIPAS change": (smc(RsiFid.RSI_IPA_STATE_SET, PAGE, 2 * PAGE, 0, 0), {"pc", "x0", "x2"}),
    "suspend": (smc(PsciFid.CPU_SUSPEND_64, 0, 0, 0), {"pc", "x0"}),
    "host call": (smc(RsiFid.RSI_HOST_CALL, HOST_CALL_IPA), {"pc", "x0", "x1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES)
def test_realm_gets_what_the_specification_lists(name: str) -> None:
    """All of the entry holds a pattern; of the realm's registers only those named change."""
    step, expected = LEAVES[name]
    world = CoreWorld()
    rd = world.realm()
    pa = world.page(rd, PAGE)
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 2 * PAGE, 3 * PAGE)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    states: list[bytes] = []

    def leave(context: machine.PeContext) -> FakeExit:
        result = step(context)
        states.append(bytes(ffi.buffer(context)))
        return result

    def back(context: machine.PeContext) -> FakeExit:
        states.append(bytes(ffi.buffer(context)))
        return FakeExit()

    world.enter(rec, leave)
    flags = RecEnterFlags.EMUL_MMIO if name in {"device store", "device load"} else 0
    enter = RecEnter.of(
        flags=flags, gprs=(FROM_HOST,) * 31, gicv3_hcr=0, gicv3_lrs=(*[0] * 4, *[FROM_HOST] * 12)
    )
    world.enter(rec, back, enter=enter)
    assert changes(*states) == expected
    is_value = name in {"device load", "trapped read"}
    assert (struct.pack("<Q", FROM_HOST) in states[1]) == is_value
    page = HostCall(world.realm_memory.read(pa, HostCall.size))
    assert page.imm == 0
    assert page.gprs == ((FROM_HOST if name == "host call" else 0),) * 31
