"""No instruction can tell that it is debugged: every row of the tables, with and without."""

from __future__ import annotations

import random
import struct
from itertools import islice

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.core import PeContext
from pyvmm.core.generate import Row, encodings, load_rows
from tests.core import program, values, words
from tests.core.debugger import READ, WRITE, Debugger, stops
from tests.core.subject import Subject, decodes
from tests.core.system import EC_HVC, ec


class Stepped(Subject):
    """Does every instruction as a step."""

    def finish(self, context: PeContext) -> None:
        """Step until an exception reaches the EL1 vectors, and leaves."""
        exit_, _ = Debugger(self._machine, context).step_to_exit()
        assert ec(exit_) == EC_HVC


class Marked(Subject):
    """Runs with breakpoints and watchpoints near everything, and never at it."""

    def finish(self, context: PeContext) -> None:
        """Half of all slots hold a mark; no access of data is fast, and none is what is watched."""
        debugger = Debugger(self._machine, context)
        debugger.break_at(*(0x7000_0000 + 8 * n for n in range(256)))
        debugger.watch((program.CURSOR, program.END - program.CURSOR, 0))
        exit_ = debugger.go()
        assert (exit_.reason, ec(exit_)) == (ExitReason.SYNC, EC_HVC)


class Counted(Subject):
    """Runs with watchpoints on all data, and goes over each stop."""

    def finish(self, context: PeContext) -> None:
        """Each case loads and stores a register file, so there are many stops."""
        debugger = Debugger(self._machine, context)
        debugger.watch((program.CURSOR, program.END - program.CURSOR, READ | WRITE))
        assert len(list(stops(debugger))) > 50_000


def some_cases(rng: random.Random, each: int) -> list[words.Case]:
    """Return a few cases of every row that is not a branch."""
    rows = encodings(load_rows())
    fuzzed: list[Row] = [
        row for row in rows if row.name not in words.EXCLUDED and not words.is_branch(row)
    ]
    cases: list[words.Case] = []
    for row in fuzzed:
        shadows = words.shadowed_by(row, rows)
        drawn = (
            words.case_of(rng, row, word, program.instruction_address(len(cases)))
            for word in words.word_stream(rng, row)
            if decodes(word) and not any(other.matches(word) for other in shadows)
        )
        cases += islice((case for case in drawn if case is not None), each)
    return cases[: program.MAX_CASES]


def outcome(engine: Subject, cases: list[words.Case], seed: int) -> tuple[bytes, bytes]:
    """Run the cases; return the registers and the memory that they leave."""
    rng = random.Random(seed)
    records = values.register_files(rng, len(cases))
    for index, case in enumerate(cases):
        offset = index * values.RECORD_SIZE
        address = program.slot_address(index)
        struct.pack_into("<Q", records, offset + values.SLOT_OFFSET, address)
        for register, value in case.registers.items():
            struct.pack_into("<Q", records, offset + 8 * register, value)
    engine.write(program.DRIVER, program.driver()[0])
    engine.write(program.SLOTS, program.slots([(case.prefix, case.word) for case in cases]))
    engine.write(program.CURSOR, program.cursor(len(cases)))
    engine.write(program.SCRATCH, rng.randbytes(program.SCRATCH_SIZE))
    engine.write(program.INPUT, records)
    assert engine.run() is None
    return engine.read(program.OUTPUT, len(records)), engine.read(
        program.SCRATCH, program.SCRATCH_SIZE
    )


@pytest.mark.parametrize("engine", [Stepped, Marked, Counted])
def test_no_instruction_can_tell_that_it_is_debugged(engine: type[Subject], seed: int) -> None:
    """A few cases of every row leave the same registers and memory as without a debugger."""
    cases = some_cases(random.Random(seed), 4)
    assert outcome(engine(), cases, seed) == outcome(Subject(), cases, seed)
