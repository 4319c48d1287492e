"""Stores into the page that the storing instruction is in: every op that stores, against Unicorn.

Such a store makes the core forget decoded code: of the slots that it touches, and of the whole page
after 32 of them, the instruction that is being executed included. Its own operands must outlive it.
"""

from __future__ import annotations

import random
import struct
import zlib
from itertools import islice

import pytest

from pyvmm.arch.engine import Engine
from pyvmm.arch.pas import Pas
from pyvmm.core import decode
from pyvmm.core.generate import Row, encodings, load_rows
from tests.core import program, values, words
from tests.core.debugger import Debugger
from tests.core.oracle import Oracle
from tests.core.subject import UNDEFINED, Subject
from tests.core.system import CODE, Bench

DATA_OFFSET = 0x800
CASES = 64  # more than 32 stores, also of store exclusives, some of which fail
DRAWS = 20_000
PAGE = program.SLOTS
PAGE_SIZE = 4096
TARGET = PAGE + DATA_OFFSET  # behind the slots, with room for what an offset adds or takes away
UNTOUCHED = 0x5555_5555_5555_5555  # what the page holds before
SP = 31  # the place of SP in a register file; as Rm it is XZR
DC_ZVA = 0xD50B7420
MDE = 1 << 15  # MDSCR_EL1: breakpoints
BREAKPOINT_ON = 1 | 3 << 1 | 0xF << 5  # DBGBCR_EL1: enabled at any level
POINTER = f"""
    adr x2, {DATA_OFFSET:#x}
    mov x0, #{CASES}
store: str x0, [x2, #8]!
    subs x0, x0, #1
    b.ne store
    hvc #0x42
"""
STORE_OFFSET = 8  # of the store in it
ROWS = encodings(load_rows())


def may_store(row: Row) -> bool:
    """Tell whether some word of the row stores."""
    return words.is_memory(row.bits) and any(
        words.is_store(word) for word in words.random_words(random.Random(0), row, 64)
    )


def with_small_offset(row: Row, word: int) -> int:
    """Return the word with an immediate offset that stays near its base."""
    for name, keep in (("imm12", 3), ("imm7", 3)):
        if name in row.fields:
            lsb, width = row.fields[name]
            word &= ~(((1 << width) - 1 & ~keep) << lsb)
    return word


def own_page_case(rng: random.Random, row: Row, word: int) -> words.Case | None:
    """Return the case that stores into the page of the slots, or None if it cannot be run."""
    case = words.case_of(rng, row, with_small_offset(row, word), TARGET)
    if case is None or not words.is_store(case.word):
        return None
    case.registers[words.bits(word, 5, 5)] = TARGET + 16 * rng.randrange(16)
    rs = words.bits(word, 16, 5)
    if words.is_register_offset(word) and rs != SP:
        case.registers[rs] = rng.randrange(8)
    if row.name in {"CAS", "CASP"}:
        case.registers |= {rs: UNTOUCHED, rs + 1: UNTOUCHED} | case.registers
    return case


def batches(rng: random.Random, row: Row) -> dict[str, list[words.Case]]:
    """Return CASES cases for each op of a row that stores."""
    shadows = words.shadowed_by(row, ROWS)
    ops: dict[str, list[words.Case]] = {}
    for word in islice(words.word_stream(rng, row), DRAWS):
        op = decode(word)
        cases = ops.setdefault(op, [])
        if len(cases) == CASES or any(other.matches(word) for other in shadows):
            continue
        case = own_page_case(rng, row, word)
        if case is not None and op != UNDEFINED:
            cases.append(case)
    return {op: cases for op, cases in ops.items() if cases}


@pytest.fixture(scope="module", params=[Engine.INTERP, Engine.JIT])
def engines(request: pytest.FixtureRequest) -> tuple[Subject, Oracle]:
    """Make the engines once."""
    both = Subject(request.param), Oracle()
    for engine in both:
        engine.write(program.DRIVER, program.driver()[0])
    return both


@pytest.fixture(scope="module")
def records(seed: int) -> bytes:
    """Return a register file for each slot."""
    files = values.register_files(random.Random(seed), CASES)
    for index in range(CASES):
        offset = index * values.RECORD_SIZE + values.SLOT_OFFSET
        struct.pack_into("<Q", files, offset, program.slot_address(index))
    return bytes(files)


def execute(engine: Subject | Oracle, records: bytes, cases: list[words.Case]) -> list[bytes]:
    """Run the cases.  Returns the output record of each, and the page."""
    files = words.register_files(records, cases)
    code = program.slots([(case.prefix, case.word) for case in cases])
    engine.write(PAGE, code.ljust(PAGE_SIZE, b"\x55"))
    engine.write(program.CURSOR, program.cursor(len(cases)))
    engine.write(program.INPUT, files)
    assert engine.run() is None
    out = engine.read(program.OUTPUT, len(files))
    size = values.RECORD_SIZE
    page = engine.read(PAGE, PAGE_SIZE)
    assert page[: len(code)] == code
    assert page[len(code) :].strip(b"\x55"), "nothing was stored"
    return [*(out[at : at + size] for at in range(0, len(out), size)), page]


def check(engines: tuple[Subject, Oracle], records: bytes, cases: list[words.Case]) -> None:
    """Run the cases on both engines and compare what they left behind."""
    ours, theirs = (execute(engine, records, cases) for engine in engines)
    differ = [
        index for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)) if mine != other
    ]
    assert not differ, [f"store {k}: {cases[k].word:08x}" for k in differ if k < len(cases)]


@pytest.mark.parametrize("row", [*filter(may_store, ROWS)], ids=lambda row: row.name)
def test_stores_into_their_own_page_agree_with_unicorn(
    engines: tuple[Subject, Oracle], records: bytes, seed: int, row: Row
) -> None:
    """Each op of a row leaves the registers and the page that QEMU leaves, 64 times in a row."""
    ops = batches(random.Random(seed << 32 | zlib.crc32(row.name.encode())), row)
    assert ops
    for op, cases in ops.items():
        assert len(cases) == CASES, f"{op}: only {len(cases)} of {DRAWS} words can run"
        check(engines, records, cases)


def test_dc_zva_of_its_own_page_changes_no_register(
    engines: tuple[Subject, Oracle], records: bytes
) -> None:
    """DC ZVA stores too, but is of the system instructions, which Unicorn traps."""
    cases = [words.Case(DC_ZVA | n % 28, registers={n % 28: TARGET + 16 * n}) for n in range(CASES)]
    *out, page = execute(engines[0], records, cases)
    files = words.register_files(records, cases)
    for index, record in enumerate(out):
        before = files[index * values.RECORD_SIZE :][: values.SLOT_OFFSET]
        assert record[: values.SLOT_OFFSET] == before, f"store {index}"
    assert page[DATA_OFFSET : DATA_OFFSET + 16 * CASES] == bytes(16 * CASES)


# --- the same at EL1 and under a debugger ---------------------------------------------------------


def pointer_moved(bench: Bench) -> int:
    """Return how far the pointer of a run that ended with its HVC went."""
    assert bench.state.x[0] == 0
    words_stored = struct.unpack(f"<{CASES}Q", bench.memory.read(CODE + DATA_OFFSET + 8, 8 * CASES))
    assert words_stored == (*range(CASES, 0, -1),)
    return int(bench.state.x[2]) - CODE - DATA_OFFSET


@pytest.mark.parametrize("pas", [Pas.NS, Pas.REALM])
@pytest.mark.parametrize("marked", [False, True])
def test_a_pointer_moves_with_every_store_of_el1(pas: Pas, marked: bool) -> None:
    """Also where a breakpoint is at the same offset in another page."""
    bench = Bench(pas)
    if marked:
        bench.state.mdscr_el1 = MDE
        bench.state.dbgbvr[0] = CODE + PAGE_SIZE + STORE_OFFSET
        bench.state.dbgbcr[0] = BREAKPOINT_ON
    assert bench.run(POINTER).esr & 0xFFFF == 0x42
    assert pointer_moved(bench) == 8 * CASES


def test_a_pointer_moves_with_every_store_that_is_stepped() -> None:
    """A step executes a copy of its instruction."""
    bench = Bench()
    bench.load(POINTER)
    exit_, count = Debugger(bench.machine, bench.state).step_to_exit()
    assert (exit_.esr & 0xFFFF, count) == (0x42, 2 + 3 * CASES)
    assert pointer_moved(bench) == 8 * CASES
