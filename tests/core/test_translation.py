"""The translator against the interpreter, on random programs.

Both run the same program in the same slices; after each slice the whole context, the exit and the
number of instructions are the same, and at the end memory is, too.
"""

from __future__ import annotations

import random

import pytest
from pyvmm.core._core import ffi

from pyvmm.arch.engine import Engine
from tests.core.random_programs import CODE_SIZE, NUM_DATA_PAGES, load, make_program
from tests.core.system import CODE, DATA, PAGE, Bench

PROGRAMS = 150
SOAK_PROGRAMS = 20_000
MAX_SLICES = 40
BUDGETS = (1, 7, 50, 300, 2000)
THRESHOLDS = (1, 2, 5)


def context(bench: Bench) -> bytes:
    """Return all of a context."""
    return bytes(ffi.buffer(bench.state))


def differences(one: Bench, other: Bench) -> list[str]:
    """Return the fields of the contexts that differ."""
    lines = []
    for name, member in ffi.typeof("struct pe_state").fields:
        mine, theirs = getattr(one.state, name), getattr(other.state, name)
        if member.type.kind == "array":
            lines += [
                f"{name}[{k}]: {a:#x}, {b:#x}"
                for k, (a, b) in enumerate(zip(mine, theirs, strict=True))
                if a != b
            ]
        elif mine != theirs:
            lines.append(f"{name}: {mine:#x}, {theirs:#x}")
    return lines


def outcome(bench: Bench, budget: int) -> tuple[int, ...]:
    """Run a slice.  Returns its exit."""
    exit_ = bench.run(budget=budget)
    return exit_.reason, exit_.irq, exit_.esr, exit_.far, exit_.hpfar, exit_.instructions


def memory(bench: Bench) -> bytes:
    """Return the memory that a program may change."""
    return bench.memory.read(CODE, CODE_SIZE) + bench.memory.read(DATA, NUM_DATA_PAGES * PAGE)


def compare(seed: int) -> None:
    """Run a program on both engines."""
    rng = random.Random(seed)
    program = make_program(rng)
    threshold = rng.choice(THRESHOLDS)
    benches = [Bench(engine=Engine.INTERP), Bench(engine=Engine.JIT, threshold=threshold)]
    contents = rng.getrandbits(64)
    for bench in benches:
        load(bench, program, random.Random(contents))
    for part in range(MAX_SLICES):
        budget = rng.choice(BUDGETS)
        expected, found = (outcome(bench, budget) for bench in benches)
        where = f"program {seed}, slice {part}"
        assert expected == found, where
        assert context(benches[0]) == context(benches[1]), (where, differences(*benches))
        if expected[2]:
            break
    assert memory(benches[0]) == memory(benches[1]), f"program {seed}"


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
