"""Every row of the decode tables against Unicorn at EL0: random fields, random register files.

A failure prints the seed, the disassembly and the registers that differ; ``pytest --seed N -k ROW``
repeats it.
"""

from __future__ import annotations

import random
import struct
import zlib
from bisect import bisect_left
from dataclasses import dataclass
from itertools import islice

import pytest
from capstone import CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN, Cs

from pyvmm.arch.engine import Engine
from pyvmm.core.generate import Row, encodings, load_rows
from tests.core import program, values, words
from tests.core.oracle import Oracle, undefined_oracle
from tests.core.subject import Subject, decodes

CASES = 2000
DRAWS = 40 * CASES  # some rows are sparse: most words of theirs are UNDEFINED
SOAK_ROUNDS = 20
UNDEFINED_CHECKED = 30
ROWS = encodings(load_rows())
FUZZED = [row for row in ROWS if row.name not in words.EXCLUDED]
STRAIGHT = [row for row in FUZZED if not words.is_branch(row)]
BRANCHES = [row for row in FUZZED if words.is_branch(row)]
ENGINES = (Engine.INTERP, Engine.JIT)
SVC = struct.pack("<I", 0xD4000001)


@dataclass(frozen=True)
class Bench:
    """Our engines, Unicorn, and what all rows share."""

    subjects: tuple[Subject, ...]
    oracle: Oracle
    undefined: Oracle
    records: bytes
    scratch: bytes
    seed: int


@pytest.fixture(scope="module")
def bench(seed: int) -> Bench:
    """Make the engines once: a row costs its cases, not its setup."""
    rng = random.Random(seed)
    records = values.register_files(rng, CASES)
    for index in range(CASES):
        offset = index * values.RECORD_SIZE + values.SLOT_OFFSET
        struct.pack_into("<Q", records, offset, program.slot_address(index))
    vector = values.pool(rng, values.random_half_vector, 512)
    scratch = b"".join(rng.choices(vector, k=program.SCRATCH_SIZE // 8))
    subjects, oracle = tuple(map(Subject, ENGINES)), Oracle()
    engines: tuple[Subject | Oracle, ...] = (*subjects, oracle)
    for engine in engines:
        engine.write(program.DRIVER, program.driver()[0])
    return Bench(subjects, oracle, undefined_oracle(), bytes(records), scratch, seed)


def row_rng(seed: int, row: Row) -> random.Random:
    """Return the row's own generator, so that one row can be repeated alone."""
    return random.Random(seed << 32 | zlib.crc32(row.name.encode()))


def draw(bench: Bench, row: Row, rng: random.Random) -> list[words.Case]:
    """Return CASES runnable cases of a row; words we call UNDEFINED are compared and left out."""
    cases: list[words.Case] = []
    shadows = words.shadowed_by(row, ROWS)
    undefined: set[int] = set()
    for word in islice(words.word_stream(rng, row), DRAWS):
        case = words.case_of(rng, row, word, program.instruction_address(len(cases)))
        if case is None or any(other.matches(case.word) for other in shadows):
            continue
        if decodes(case.word):
            cases.append(case)
            if len(cases) == CASES:
                break
        else:
            undefined.add(case.word)
    for word in sorted(undefined)[:UNDEFINED_CHECKED]:
        assert bench.undefined.is_undefined(word), (
            f"{row.name}: {word:08x} ({disassemble(word, 0)}) is UNDEFINED here, not in Armv8.0"
        )
    assert len(cases) == CASES, f"{row.name}: only {len(cases)} of {DRAWS} words can run"
    return cases


def execute(engine: Subject | Oracle, bench: Bench, cases: list[words.Case]) -> tuple[bytes, bytes]:
    """Run the cases.  Returns the output records and the scratch window."""
    records = words.register_files(bench.records, cases)
    engine.write(program.SLOTS, program.slots([(case.prefix, case.word) for case in cases]))
    engine.write(program.CURSOR, program.cursor(len(cases)))
    engine.write(program.SCRATCH, bench.scratch)
    engine.write(program.INPUT, records)
    trapped = engine.run()
    if trapped is not None:
        index = (trapped - program.SLOTS) // program.SLOT_SIZE
        culprit = describe(cases[index], index) if 0 <= index < len(cases) else f"pc {trapped:#x}"
        message = f"{type(engine).__name__} trapped, seed {bench.seed}: {culprit}"
        pytest.fail(message, pytrace=False)
    return engine.read(program.OUTPUT, len(records)), engine.read(
        program.SCRATCH, program.SCRATCH_SIZE
    )


def check(bench: Bench, row: Row, rng: random.Random) -> None:
    """Run a row's cases on all engines and compare all that they left behind."""
    cases = draw(bench, row, rng)
    expected = execute(bench.oracle, bench, cases)
    for subject in bench.subjects:
        if execute(subject, bench, cases) != expected:
            report(bench, subject, cases)


def report(bench: Bench, subject: Subject, cases: list[words.Case]) -> None:
    """Fail with the first case that differs."""

    def differs(count: int) -> bool:
        mine, other = (execute(e, bench, cases[:count]) for e in (subject, bench.oracle))
        return mine != other

    count = bisect_left(range(len(cases)), True, lo=1, key=differs)  # the fewest cases that differ
    (ours, our_scratch), (theirs, their_scratch) = (
        execute(engine, bench, cases[:count]) for engine in (subject, bench.oracle)
    )
    last = slice((count - 1) * values.RECORD_SIZE, count * values.RECORD_SIZE)
    lines = [f"seed {bench.seed}, {subject.engine}: {describe(cases[count - 1], count - 1)}"]
    lines += register_differences(bench.records[last], ours[last], theirs[last])
    lines += memory_differences(our_scratch, their_scratch)
    pytest.fail("\n".join(lines), pytrace=False)


def describe(case: words.Case, index: int) -> str:
    """Return one line on a case."""
    pc = program.instruction_address(index)
    before = f" after {disassemble(case.prefix, pc - 4)}" if case.prefix != program.NOP else ""
    return f"case {index}: {case.word:08x}  {disassemble(case.word, pc)}{before}"


def disassemble(word: int, pc: int) -> str:
    """Return the instruction as text."""
    for instruction in Cs(CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN).disasm(struct.pack("<I", word), pc):
        return f"{instruction.mnemonic} {instruction.op_str}"
    return "?"


def registers(record: bytes) -> dict[str, int]:
    """Return a record's registers by name."""
    general = struct.unpack_from("<32Q", record)
    named = {f"X{n}" if n < values.NUM_X else "SP": value for n, value in enumerate(general)}
    for n in range(values.NUM_V):
        at = values.V_OFFSET + 16 * n
        named[f"V{n}"] = int.from_bytes(record[at : at + 16], "little")
    for name, offset in program.SPECIAL:
        named[name.upper()] = struct.unpack_from("<Q", record, offset)[0]
    return named


def register_differences(before: bytes, ours: bytes, theirs: bytes) -> list[str]:
    """Return a line for each register that differs, and the inputs in small print."""
    start, mine, other = registers(before), registers(ours), registers(theirs)
    lines = [
        f"  {name}: before {start[name]:#x}, pyvmm {mine[name]:#x}, Unicorn {other[name]:#x}"
        for name in start
        if mine[name] != other[name]
    ]
    return [*lines, "  " + " ".join(f"{name}={value:x}" for name, value in start.items())]


def memory_differences(ours: bytes, theirs: bytes) -> list[str]:
    """Return a line for each 8 bytes of the scratch window that differ."""
    lines = []
    for at in range(0, len(ours), 8):
        mine, other = ours[at : at + 8], theirs[at : at + 8]
        if mine != other:
            address = program.SCRATCH + at
            lines.append(f"  [{address:#x}]: pyvmm {mine.hex()}, Unicorn {other.hex()}")
    return lines


def check_branches(bench: Bench, row: Row, rng: random.Random) -> None:
    """Step a branch row's cases on all engines and compare PC and X30."""
    pc = words.WINDOW
    size = values.RECORD_SIZE
    engines: tuple[Subject | Oracle, ...] = (*bench.subjects, bench.oracle)
    for engine in engines:
        engine.write(program.SCRATCH, SVC * (program.SCRATCH_SIZE // 4))
    for index, word in enumerate(words.random_words(rng, row, CASES)):
        case = words.branch_case(rng, row, word, pc)
        record = bytearray(bench.records[index * size : (index + 1) * size])
        for register, value in case.registers.items():
            if register < values.NUM_X:
                struct.pack_into("<Q", record, 8 * register, value)
        if 31 in case.registers or not decodes(case.word):
            continue
        outcomes = []
        for engine in engines:
            engine.write(pc, struct.pack("<I", case.word))
            outcomes.append(engine.step_branch(pc, bytes(record)))
        if len(set(outcomes)) > 1:
            text = f"{case.word:08x} {disassemble(case.word, pc)}"
            *ours, theirs = outcomes
            pytest.fail(f"seed {bench.seed}: {text}: pyvmm {ours}, Unicorn {theirs}")


@pytest.mark.parametrize("row", STRAIGHT, ids=lambda row: row.name)
def test_row_agrees_with_unicorn(bench: Bench, row: Row) -> None:
    """The instruction leaves the registers, the flags and memory that QEMU leaves."""
    check(bench, row, row_rng(bench.seed, row))


@pytest.mark.parametrize("row", BRANCHES, ids=lambda row: row.name)
def test_branch_agrees_with_unicorn(bench: Bench, row: Row) -> None:
    """The branch goes where QEMU goes, and links what QEMU links."""
    check_branches(bench, row, row_rng(bench.seed, row))


@pytest.mark.slow
@pytest.mark.parametrize("row", STRAIGHT, ids=lambda row: row.name)
def test_row_agrees_with_unicorn_for_long(bench: Bench, row: Row) -> None:
    """The same with twenty times the cases."""
    for turn in range(SOAK_ROUNDS):
        check(bench, row, row_rng(bench.seed + 1 + turn, row))


def test_exclusions_are_rows() -> None:
    """An exclusion that names no row would hide a renamed one."""
    assert set(words.EXCLUDED) <= {row.name for row in ROWS}
