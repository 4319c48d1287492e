"""Instruction rates: one bare-metal program, run by the core and by qemu-system-aarch64.

The program maps 1 GiB blocks one to one, turns the MMU on, loops, and requests PSCI SYSTEM_OFF with
HVC: QEMU's virt machine powers off, our core exits. QEMU's figure is the difference between a long
and a short run, so its start-up time does not count.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from keystone import KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN, Ks

from benchmarks.result import Result
from pyvmm.arch.el1 import SCTLR_EL1
from pyvmm.arch.engine import Engine
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.pas import Pas
from pyvmm.arch.pstate import EL1H_MASKED
from pyvmm.core import Machine

RAM = 0x4000_0000
RAM_SIZE = 16 << 20
LOAD = RAM + 0x8_0000  # where QEMU loads a flat binary
TABLE = RAM + 0x10_0000
DATA = RAM + 0x20_0000
QEMU = "qemu-system-aarch64"

GIB = 1 << 30
NORMAL_BLOCK = 1 << 10 | 3 << 8 | 1
TCR = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32
SCTLR_MMU_CACHES = int(SCTLR_EL1.of(M=1, C=1, I=1))

#: Loop bodies; X0 counts down, X1 points to data.
ALU = """
    add x2, x2, x3; eor x4, x4, x2; lsr x5, x4, #7; sub x6, x6, x5; and x7, x6, x2
    orr x8, x7, x4; add x3, x3, #13; eor x9, x8, x6, ror #11; add w10, w9, w5; csel x2, x9, x2, cs
"""
LOAD_STORE = """
    ldr x2, [x1]; add x2, x2, #1; str x2, [x1]; ldr x3, [x1, #64]; ldp x4, x5, [x1, #128]
    str w3, [x1, #192]; stp x4, x2, [x1, #256]; ldrb w6, [x1, #321]; eor x3, x3, x6
    str x3, [x1, #64]
"""
LOOP_SIZE = 12  # each body is ten instructions, and the loop adds two


def put(register: str, value: int) -> str:
    """Return the instructions that put a constant into a register."""
    parts = [f"movz {register}, #{value & 0xFFFF:#x}"]
    parts += [
        f"movk {register}, #{value >> shift & 0xFFFF:#x}, lsl #{shift}"
        for shift in (16, 32, 48)
        if value >> shift & 0xFFFF
    ]
    return "; ".join(parts)


def program(body: str, count: int) -> bytes:
    """Return the program that runs a loop body ``count`` times."""
    system = (
        ("mair_el1", 0xFF),
        ("tcr_el1", TCR),
        ("ttbr0_el1", TABLE),
        ("cpacr_el1", 3 << 20),
        ("sctlr_el1", 0x30D0_0800 | SCTLR_MMU_CACHES),
    )
    lines = [
        put("x1", TABLE),
        put("x2", RAM | NORMAL_BLOCK),
        "str x2, [x1, #8]; dsb sy",
        *(f"{put('x2', value)}; msr {name}, x2" for name, value in system),
        "isb; tlbi vmalle1; dsb sy; isb",
        put("x0", count),
        put("x1", DATA),
        "again:",
        *body.strip().splitlines(),
        "subs x0, x0, #1; b.ne again",
        put("x0", 0x8400_0008),
        "hvc #0",
        "wait: b wait",
    ]
    code, _ = Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN).asm("\n".join(lines))
    return bytes(code or b"")


def time_core(body: str, count: int, engine: Engine) -> float:
    """Return the seconds that the core takes for ``count`` iterations."""
    machine = Machine(dram_base=RAM, dram_size=RAM_SIZE, num_pes=1, engine=engine)
    machine.memory(Pas.NS).write(LOAD, program(body, count))
    context = machine.new_context()
    context.hcr_el2, context.security = HCR_EL2.RW.mask, Pas.NS
    context.pc, context.pstate = LOAD, EL1H_MASKED
    start = time.perf_counter()
    result = machine.pe(0).run(context, 1 << 62)
    elapsed = time.perf_counter() - start
    if result.reason != ExitReason.SYNC or result.esr >> 26 != 0x16:
        raise RuntimeError(f"the benchmark stopped at {context.pc:#x}, ESR {result.esr:#x}")
    return elapsed


def time_qemu(body: str, count: int) -> float:
    """Return the seconds that QEMU takes for ``count`` iterations, including start and end."""
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "loop.bin"
        image.write_bytes(program(body, count))
        command = [QEMU, "-M", "virt", "-cpu", "cortex-a76", "-m", "64", "-nographic"]
        command += ["-net", "none", "-monitor", "none", "-serial", "none", "-kernel", str(image)]
        start = time.perf_counter()
        subprocess.run(command, check=True, timeout=120)
        return time.perf_counter() - start


def rates(name: str, body: str, count: int, goals: dict[Engine, float]) -> Iterator[Result]:
    """Measure millions of instructions per second: each engine's, best of three, and QEMU's."""
    instructions = count * LOOP_SIZE / 1e6
    peer = None
    if shutil.which(QEMU) is not None:
        peer = 4 * instructions / (time_qemu(body, 5 * count) - time_qemu(body, count))
    for engine, goal in goals.items():
        ours = instructions / min(time_core(body, count, engine) for _ in range(3))
        label = name if engine is Engine.INTERP else f"{name}, {engine}"
        yield Result(label, ours, "M insn/s", goal=goal, peer=peer)


def alu() -> Iterator[Result]:
    """Ten register-to-register instructions and a branch."""
    yield from rates("alu", ALU, 20_000_000, {Engine.INTERP: 250, Engine.JIT: 1500})


def load_store() -> Iterator[Result]:
    """Seven loads and stores among ten instructions, through the MMU."""
    goals = {Engine.INTERP: 120.0, Engine.JIT: 800.0}
    yield from rates("load-store", LOAD_STORE, 10_000_000, goals)
