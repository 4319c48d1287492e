"""The translator against the interpreter, on random programs.

Both run the same program in the same slices, on two PEs in turn, with the same changes by the host
in between; after each slice the whole context, the exit and the number of instructions are the
same, and at the end memory is, too.
"""

from __future__ import annotations

import random
import threading
import time

import pytest
from pyvmm.core._core import ffi

from pyvmm.arch.engine import Engine
from pyvmm.core import PeContext, PeExit
from tests.core.random_programs import Program, make_program, straight_words
from tests.core.random_worlds import FOR_EVER, NUM_PES, World
from tests.core.system import EC_HVC

PROGRAMS = 150
SOAK_PROGRAMS = 20_000
MAX_SLICES = 100
LONG_FUEL = 20_000
ENGINES = (Engine.JIT, Engine.JIT, Engine.JIT, Engine.CHECK)
CHANGES = 3  # slices per change by the host
BUDGETS = (1, 7, 50, 300, 2000)
THRESHOLDS = (1, 2, 5)


def differences(one: PeContext, other: PeContext) -> list[str]:
    """Return the fields of two contexts that differ."""
    lines = []
    for name, member in ffi.typeof("struct pe_state").fields:
        mine, theirs = getattr(one, name), getattr(other, name)
        if name == "debug":
            continue
        if member.type.kind == "array":
            lines += [
                f"{name}[{k}]: {a:#x}, {b:#x}"
                for k, (a, b) in enumerate(zip(mine, theirs, strict=True))
                if a != b
            ]
        elif mine != theirs:
            lines.append(f"{name}: {mine:#x}, {theirs:#x}")
    return lines


def outcome(exit_: PeExit) -> tuple[int, ...]:
    """Return all that an exit tells."""
    return exit_.reason, exit_.irq, exit_.esr, exit_.far, exit_.hpfar, exit_.instructions


def compare(seed: int) -> None:
    """Run a program on both engines."""
    rng = random.Random(seed)
    program = make_program(rng, straight_words(seed >> 31))
    contents, threshold = rng.getrandbits(64), rng.choice(THRESHOLDS)
    engine = rng.choice(ENGINES)
    num_pes = 1 if engine is Engine.CHECK else NUM_PES
    worlds = [
        World(program, contents, each, threshold, num_pes) for each in (Engine.INTERP, engine)
    ]
    running = list(range(num_pes))
    for part in range(MAX_SLICES):
        pe, budget = rng.choice(running), rng.choice(BUDGETS)
        exits = [world.run(pe, budget) for world in worlds]
        where = f"program {seed:#x}, slice {part}"
        assert outcome(exits[0]) == outcome(exits[1]), where
        assert not differences(*(world.states[pe] for world in worlds)), where
        goes_on = [world.repair(pe, exit_) for world, exit_ in zip(worlds, exits, strict=True)]
        if not goes_on[0]:
            running.remove(pe)
        if not running:
            break
        change = rng.getrandbits(64)
        for world in worlds:
            if not change % CHANGES:
                world.change(random.Random(change))
    assert worlds[0].contents() == worlds[1].contents(), f"program {seed:#x}"


@pytest.mark.parametrize("part", range(5))
def test_programs_agree_with_the_interpreter(seed: int, part: int) -> None:
    """Registers, memory, exits, counts."""
    for number in range(PROGRAMS // 5):
        compare(seed << 32 | part << 16 | number)


@pytest.mark.slow
def test_many_programs_agree_with_the_interpreter(seed: int) -> None:
    """The same for long."""
    for number in range(SOAK_PROGRAMS):
        compare(seed << 32 | 1 << 31 | number)


def run_beside_rewriter(program: Program, contents: int, engine: Engine) -> World:
    """Run a program to its end while the other PE rewrites its code with the same words."""
    world = World(program, contents, engine)
    machine, pe = world.bench.machine, world.bench.machine.pe(1)
    rewriter = threading.Thread(target=world.rewrite, args=(1,))
    rewriter.start()
    while not pe.instructions:
        time.sleep(0)
    world.states[0].x[27] = LONG_FUEL
    exit_ = machine.pe(0).run(world.states[0], FOR_EVER)
    pe.kick()
    rewriter.join()
    assert exit_.esr >> 26 == EC_HVC
    return world


@pytest.mark.parametrize("number", range(8))
def test_invalidations_by_another_pe_change_nothing(seed: int, number: int) -> None:
    """The code is dropped and translated anew all the time, at any point."""
    rng = random.Random(seed << 32 | 1 << 30 | number)
    program = make_program(rng, straight_words(seed), patches_itself=False)
    contents = rng.getrandbits(64)
    worlds = [run_beside_rewriter(program, contents, each) for each in (Engine.INTERP, Engine.JIT)]
    assert not differences(*(world.states[0] for world in worlds))
    assert worlds[0].contents() == worlds[1].contents()
