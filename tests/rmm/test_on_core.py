"""The RMM on the real machine, under the real Monitor: what a realm does, and what C walks."""

from struct import unpack
from typing import Final

import pytest

from pyvmm.arch.esr import ExceptionClass
from pyvmm.arch.gic import ICH_HCR_UIE
from pyvmm.arch.rmi import RecEnter, RecEnterFlags, RecExitReason, RmiFid
from pyvmm.arch.rsi import HostCall, RealmConfig
from tests.core.program import assemble
from tests.rmm.core_world import CoreWorld

UNPROTECTED: Final = 1 << 32

GUEST: Final = """
    ldr  x0, =0xC4000190        // RSI_VERSION
    mov  x1, #0x10000
    smc  #0
    mov  x20, x1
    mrs  x21, id_aa64dfr0_el1
    mov  x5, #0x3000            // RAM that the host has yet to provide
    mov  x6, #77
    str  x6, [x5]
    ldr  x0, =0xC4000196        // RSI_REALM_CONFIG
    mov  x1, #0x4000
    smc  #0
    mov  x9, #0x100000000       // a device
    mov  w6, #0x1234
    str  w6, [x9, #0x10]
    ldrsb x22, [x9, #0x11]
    ldr  x0, =0xC4000199        // RSI_HOST_CALL
    mov  x1, #0x5000
    smc  #0
    ldr  x0, =0x84000008        // SYSTEM_OFF
    smc  #0
"""


def running_rec(world: CoreWorld, rd: int, text: str, *, top: int = 0x2000) -> int:
    """Activate a realm that runs the instructions of one page; RAM ends at ``top``."""
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0x1000, top)
    code = world.ns_granule(assemble(text))
    world.do(RmiFid.RMI_DATA_CREATE, rd, world.delegated(), 0x1000, code, 1)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    return rec


def test_realm_runs() -> None:
    """Calls, missing pages, a device, a host call and the end, by instructions of the guest."""
    world = CoreWorld(is_scripted=False)
    rd = world.realm()
    rec = running_rec(world, rd, GUEST, top=0x6000)
    pages: dict[int, int] = {}
    seen: list[object] = []
    enter = RecEnter()
    while not seen or seen[-1] != RecExitReason.PSCI:
        leave = world.enter(rec, enter=enter)
        enter, ipa = RecEnter(), leave.hpfar << 8
        if leave.exit_reason != RecExitReason.SYNC:
            seen.append(RecExitReason(leave.exit_reason))
        elif ipa < UNPROTECTED:
            pages[ipa] = world.delegated()
            world.do(RmiFid.RMI_DATA_CREATE_UNKNOWN, rd, pages[ipa], ipa)
        else:
            seen.append((leave.far, leave.gprs[0]))
            enter = RecEnter.of(flags=RecEnterFlags.EMUL_MMIO, gprs=(0x80, *[0] * 30))
    assert seen == [(0x10, 0x1234), (0x11, 0), RecExitReason.HOST_CALL, RecExitReason.PSCI]
    memory = world.realm_memory
    assert memory.read(pages[0x3000], 1) == bytes([77])
    assert RealmConfig(memory.read(pages[0x4000], 4096)).ipa_width == 33
    assert HostCall(memory.read(pages[0x5000], 256)).imm == 0
    x = world.rmm.recs[rec].context.x
    assert (x[20], x[22]) == (0x1_0000, (1 << 64) - 0x80)
    assert (x[21] >> 12 & 0xF, x[21] >> 20 & 0xF, x[21] >> 8 & 0xF) == (1, 1, 0)
    assert world.call(RmiFid.RMI_REC_ENTER, rec, world.ns_granule())[0] == 0x102


def test_exit_shows_the_gic_registers_as_the_realm_reads_them() -> None:
    """Binary points that nobody wrote are the least ones, in gicv3_vmcr and in ICV_BPR<n>_EL1."""
    world = CoreWorld(is_scripted=False)
    code = "mrs x1, s3_0_c12_c8_3\n mrs x2, s3_0_c12_c12_3\n wfi"
    rec = running_rec(world, world.realm(), code)
    leave = world.enter(rec, enter=RecEnter.of(flags=RecEnterFlags.TRAP_WFI))
    x = world.rmm.recs[rec].context.x
    assert (x[1], x[2]) == (leave.gicv3_vmcr >> 21 & 7, leave.gicv3_vmcr >> 18 & 7) == (2, 3)


@pytest.mark.parametrize("is_enabled", [False, True])
def test_maintenance_ends_a_run_if_the_host_has_enabled_it(is_enabled: bool) -> None:
    """With UIE and no interrupt listed; ``gicv3_misr`` shows the condition in either case."""
    world = CoreWorld(is_scripted=False)
    rec = running_rec(world, world.realm(), "nop\n wfi")
    world.core.pe(0).set_maintenance(is_enabled)
    enter = RecEnter.of(flags=RecEnterFlags.TRAP_WFI, gicv3_hcr=ICH_HCR_UIE)
    leave = world.enter(rec, enter=enter)
    expected = RecExitReason.IRQ if is_enabled else RecExitReason.SYNC
    assert (leave.exit_reason, leave.gicv3_misr) == (expected, ICH_HCR_UIE)


#: Each fault goes on where X27 says, with its syndrome and address stored.
FAULTS: Final = f"""
    mov  x20, #0x4000
    mov  x5, #0x1800
    msr  vbar_el1, x5
    adr  x27, after_hvc
    hvc  #7
after_hvc:
    ldr  x0, =0x8600FF01
    mov  x3, #9
    smc  #0
    stp  x0, x3, [x20], #16
    mov  x6, #0x8010            // RIPAS EMPTY
    adr  x27, after_empty
    ldr  x7, [x6]
after_empty:
    mov  x6, #{1 << 36:#x}      // no IPA at all
    adr  x27, after_outside
    str  x7, [x6]
after_outside:
    ldr  x6, ={UNPROTECTED + 0x2000:#x} // shared memory is not executed
    adr  x27, after_fetch
    br   x6
after_fetch:
    mov  x6, #0x9000            // RIPAS EMPTY again
    adr  x27, after_empty_fetch
    br   x6
after_empty_fetch:
    ldr  x6, ={UNPROTECTED + 0x3000:#x} // shared memory that the host delegated meanwhile
    adr  x27, end
    str  x7, [x6]
end:
    mrs  x8, id_aa64pfr0_el1
    mrs  x9, id_aa64dfr0_el1
    stp  x8, x9, [x20], #16
    wfi
"""
VECTOR: Final = """
    mrs x10, esr_el1
    mrs x11, far_el1
    stp x10, x11, [x20], #16
    msr elr_el1, x27
    eret
"""


def test_realm_takes_exceptions_for_forbidden_actions() -> None:
    """HVC is UNDEFINED, an unknown SMC is -1, an access without memory is an external abort."""
    world = CoreWorld(is_scripted=False)
    rd = world.realm()
    world.do(RmiFid.RMI_RTT_INIT_RIPAS, rd, 0x1000, 0x5000)
    code = assemble(FAULTS).ljust(0xA00, b"\0") + assemble(VECTOR)
    world.do(RmiFid.RMI_DATA_CREATE, rd, world.delegated(), 0x1000, world.ns_granule(code), 0)
    page = world.page(rd, 0x4000)
    shared = world.ns_granule()
    world.do(RmiFid.RMI_RTT_MAP_UNPROTECTED, rd, UNPROTECTED + 0x3000, 3, shared | 6 << 2 | 3 << 6)
    world.do(RmiFid.RMI_GRANULE_DELEGATE, shared)
    rec = world.rec(rd)
    world.do(RmiFid.RMI_REALM_ACTIVATE, rd)
    leave = world.enter(rec, enter=RecEnter.of(flags=RecEnterFlags.TRAP_WFI))
    assert (leave.exit_reason, leave.esr >> 26) == (RecExitReason.SYNC, ExceptionClass.WFX)
    seen = list(zip(*[iter(unpack("<16Q", world.realm_memory.read(page, 128)))] * 2, strict=True))
    il, external, wnr = 1 << 25, 1 << 9 | 0x10, 1 << 6
    assert seen[0][0] == il  # EC 0: UNDEFINED
    assert seen[1] == ((1 << 64) - 1, 0)
    assert seen[2:7] == [
        (0x25 << 26 | il | external, 0x8010),
        (0x25 << 26 | il | external | wnr, 1 << 36),
        (0x21 << 26 | il | external, UNPROTECTED + 0x2000),
        (0x21 << 26 | il | external, 0x9000),
        (0x25 << 26 | il | wnr | 0x28, UNPROTECTED + 0x3000),
    ]
    pfr0, dfr0 = seen[7]
    assert pfr0 & 0xFF == 0x11
    assert (pfr0 >> 32 & 0xF, pfr0 >> 44 & 0xF, pfr0 >> 52 & 0xF) == (0, 0, 0)  # SVE, AMU, RME
    assert (dfr0 >> 12 & 0xF, dfr0 >> 20 & 0xF, dfr0 >> 36 & 0xF) == (1, 1, 0xF)
