"""Alignment checks of every row that accesses memory.

They look at elements, where SCTLR_EL1.A or Device memory ask for it; exclusives, ordered accesses
and atomics are checked as a whole, and always. Spec: DDI 0487, "Alignment of data accesses".
"""

from __future__ import annotations

import random
import struct
from itertools import islice

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.core import decode
from pyvmm.core.generate import Row, encodings, load_rows
from tests.core import words
from tests.core.subject import UNDEFINED
from tests.core.system import (
    AF,
    CODE,
    DATA,
    DEVICE,
    EC_DATA_ABORT,
    EC_HVC,
    HVC,
    PAGE,
    S2_READ,
    S2_WRITE,
    SCTLR_ON,
    USER,
    UXN,
    Bench,
    ec,
    guest_ec,
    guest_fsc,
)

ALIGNMENT = 0x21
WNR = 1 << 6
HCR_FWB = 1 << 46
SCTLR_A = 1 << 1
DONE = 0x42
BASE, NO_INDEX = 9, 31  # Rn of every word, and Rm of those that have an index
DRAWS = 4096
ZVA = 0xD50B7420 | BASE
MEMORY = [row for row in encodings(load_rows()) if words.is_memory(row.bits)]


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Return a bench with a page of Normal memory and one of Device memory behind it."""
    bench = Bench()
    bench.mmu_on()
    bench.map(DATA, DATA, AF | USER | UXN)
    bench.map(DATA + PAGE, DATA + PAGE, AF | USER | UXN | DEVICE)
    return bench


def address_form(row: Row, word: int) -> int:
    """Return the word with BASE for a base and no offset."""
    clear = {"imm12", "imm9", "imm7", "imm19", "Rn"} | ({"S"} if row.name == "LDRA" else set())
    for name, (lsb, width) in row.fields.items():
        if name in clear:
            word &= ~(((1 << width) - 1) << lsb)
    if "Rm" in row.fields:
        word |= NO_INDEX << 16
    return word | BASE << 5 if "Rn" in row.fields else word


def one_word_an_op(row: Row) -> dict[str, int]:
    """Return a word for each op of a row, and of each size of element."""
    shadows = words.shadowed_by(row, MEMORY)
    found: dict[str, int] = {}
    for drawn in islice(words.word_stream(random.Random(0), row), DRAWS):
        word = address_form(row, drawn)
        op = decode(word)
        registers = {words.bits(word, lsb, 5) for lsb in (0, 10, 16)}
        unusable = BASE in registers or words.is_unpredictable(word)
        if op in {UNDEFINED, "HINT"} or unusable or any(s.matches(word) for s in shadows):
            continue
        found.setdefault(f"{op} of {element_size(word)}", word)
    return found


def element_size(word: int) -> int:
    """Return the bytes that alignment checks look at, from the encoding alone."""
    size, vector = words.bits(word, 30, 2), words.bits(word, 26, 1)
    if words.is_literal(word):
        return 4 << size if vector else 8 if size == 1 else 4
    if words.is_compare_and_swap_pair(word):
        return 8 << (size & 1)
    if words.is_exclusive(word):
        is_pair = words.bits(word, 21, 1) and not words.bits(word, 23, 1)
        return (2 if is_pair else 1) << size
    if words.is_pair(word):
        return 4 << size if vector else 8 if size == 2 else 4
    if words.bits(word, 27, 3) == 0b111:
        return 1 << (words.bits(word, 23, 1) << 2 | size if vector else size)
    opcode = words.bits(word, 13, 3)
    if words.bits(word, 24, 1) and opcode < 6:  # one lane
        return (1, 2, 8 if words.bits(word, 10, 1) else 4)[opcode >> 1]
    return 1 << words.bits(word, 10, 2)


def run(bench: Bench, word: int, va: int, *, checked: bool) -> int | None:
    """Execute the word with the base at ``va``; return the FAR of its alignment fault, or None."""
    state = bench.state
    bench.memory.write(CODE, struct.pack("<2I", word, HVC | DONE << 5))
    state.pc, state.pstate, state.x[BASE] = CODE, 0x3C5, va
    state.sctlr_el1 = SCTLR_ON | (SCTLR_A if checked else 0)
    exit_ = bench.run()
    assert exit_.reason == ExitReason.SYNC
    if exit_.esr & 0xFFFF == DONE:
        return None
    assert (guest_ec(state), guest_fsc(state)) == (EC_DATA_ABORT + 1, ALIGNMENT)
    if not words.needs_alignment(word):
        assert bool(state.esr_el1 & WNR) == words.is_store(word)
    assert state.elr_el1 == CODE
    return int(state.far_el1)


@pytest.mark.parametrize(
    "row", [row for row in MEMORY if not words.is_literal(row.bits)], ids=lambda row: row.name
)
def test_alignment_checks_are_of_an_element(bench: Bench, row: Row) -> None:
    """Each op at each offset: Normal memory, the same with SCTLR_EL1.A, Device memory."""
    ops = one_word_an_op(row)
    assert ops
    for op, word in ops.items():
        size = element_size(word)
        for offset in (0, 1, 2, 4, 8, 16):
            va, device = DATA + 0x100 + offset, DATA + PAGE + 0x100 + offset
            outcome = [
                run(bench, word, va, checked=False),
                run(bench, word, va, checked=True),
                run(bench, word, device, checked=False),
            ]
            fault = [va, va, device] if offset % size else [None] * 3
            expected = fault if words.needs_alignment(word) else [None, *fault[1:]]
            assert outcome == expected, f"{op} at +{offset}: {word:08x}"


@pytest.mark.parametrize(
    "row", [row for row in MEMORY if words.is_literal(row.bits)], ids=lambda row: row.name
)
def test_literals_are_aligned_to_their_size(bench: Bench, row: Row) -> None:
    """A literal is at a multiple of four; one of 8 or 16 bytes may still be misaligned."""
    for op, word in one_word_an_op(row).items():
        for distance in range(64, 84, 4):
            literal = word | distance // 4 << 5
            assert run(bench, literal, 0, checked=False) is None
            misaligned = distance % element_size(word)
            assert run(bench, literal, 0, checked=True) == (
                CODE + distance if misaligned else None
            ), op


@pytest.mark.parametrize("offset", [0x100, 0xFE0, 0xFF8])
def test_a_structure_across_pages_is_checked_as_a_whole(bench: Bench, offset: int) -> None:
    """Four registers: there is one access to check, and its address is that of the structure."""
    st4 = 0x4C000120  # st4 {v0.16b-v3.16b}, [x9]
    st1_words = 0x4C002920  # st1 {v0.4s-v3.4s}, [x9]
    assert run(bench, st4, DATA + offset + 1, checked=True) is None
    assert run(bench, st1_words, DATA + offset + 1, checked=True) == DATA + offset + 1


def test_dc_zva_of_device_memory_is_an_alignment_fault(bench: Bench) -> None:
    """Whatever the address; SCTLR_EL1.A alone asks nothing of it."""
    assert run(bench, ZVA, DATA + 1, checked=True) is None
    assert run(bench, ZVA, DATA + PAGE, checked=False) == DATA + PAGE
    assert bench.state.esr_el1 & WNR


@pytest.mark.parametrize("word", [0xF9400120, ZVA])  # ldr x0, [x9]
@pytest.mark.parametrize("stage2", [0, S2_READ])
def test_device_memory_of_stage_2_faults_to_el2(word: int, stage2: int) -> None:
    """The stage that makes memory Device reports the fault, before one of its permissions."""
    bench = Bench()
    bench.mmu_on()
    bench.map(DATA, DATA, AF | USER | UXN)
    bench.stage2_on()
    bench.map_stage2(1 << 30, DATA, AF | stage2)
    bench.map_stage2((1 << 30) + PAGE, DATA, AF | S2_READ | S2_WRITE)
    bench.map(DATA, 1 << 30, AF | USER | UXN)
    bench.load(f".long {word:#x}\n hvc #{DONE}")
    bench.state.x[BASE] = DATA + 0x41
    exit_ = bench.run()
    assert (ec(exit_), exit_.esr & 0x3F) == (EC_DATA_ABORT, ALIGNMENT)
    assert (exit_.far & ~63, exit_.hpfar) == (DATA + 0x40, 1 << 30 >> 8)


def test_forced_write_back_leaves_device_memory_to_stage_1() -> None:
    """HCR_EL2.FWB with MemAttr 0b111: stage 1 made it Device, so EL1 gets the fault."""
    bench = Bench()
    bench.mmu_on()
    bench.stage2_on()
    bench.state.hcr_el2 |= HCR_FWB
    bench.map_stage2(CODE, CODE, AF | S2_READ | S2_WRITE | 6 << 2, leaf_level=2)
    bench.map_stage2(1 << 30, DATA, AF | S2_READ | S2_WRITE | 7 << 2)
    bench.map(DATA, 1 << 30, AF | UXN | DEVICE)
    bench.load(f"ldr x0, [x9]\n hvc #{DONE}")
    bench.state.x[BASE] = DATA + 1
    assert ec(bench.run()) == EC_HVC
    assert (guest_fsc(bench.state), bench.state.far_el1) == (ALIGNMENT, DATA + 1)
