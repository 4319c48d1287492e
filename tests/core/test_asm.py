"""One-instruction assembly tests: ``asm/*.s``, the register file before and after in comments.

::

    // What the test shows, in one line.
    //< x1=5 [0x10]=0x1122334455667788       before: registers, 8 bytes of memory
    adds x0, x1, #1
    //> x0=6 nzcv=0                          after

Values are numbers, or ``@offset`` for an address in the scratch page. Registers not named are zero
before (vN are 128 bits, nzcv is four bits) and unchanged after. ``esr`` after says that the code
traps, with that ESR_EL1. What the assembler does not know (Armv8.1 and later) is written as .word.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.core import program
from tests.core.subject import Subject
from tests.core.values import NUM_V, NUM_X

FILES = sorted((Path(__file__).parent / "asm").glob("*.s"))
SETTING = re.compile(r"(\w+|\[\w+\])=(\S+)")
END = "svc #0xffff"
ESR_END = 0x5600_FFFF  # EC SVC64, IL, imm16


@dataclass
class AsmTest:
    """A parsed .s file: settings are register name or memory offset to value."""

    code: str
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)


def parse_value(text: str) -> int:
    """Return a number; ``@offset`` counts from the scratch page."""
    return program.SCRATCH + int(text[1:], 0) if text.startswith("@") else int(text, 0)


def parse(text: str) -> AsmTest:
    """Parse a .s file."""
    test = AsmTest("\n".join(line.partition("//")[0] for line in text.splitlines()))
    for line in text.splitlines():
        settings = {name: parse_value(value) for name, value in SETTING.findall(line[3:])}
        if line.startswith("//<"):
            test.before |= settings
        elif line.startswith("//>"):
            test.after |= settings
    return test


def memory_settings(settings: dict[str, int]) -> dict[int, int]:
    """Return address to 8-byte value of the ``[offset]`` settings."""
    return {
        program.SCRATCH + int(name[1:-1], 0): value
        for name, value in settings.items()
        if name.startswith("[")
    }


def run(subject: Subject, test: AsmTest) -> dict[str, int]:
    """Run the code.  Returns every register by name, ``esr`` included."""
    subject.write(program.SLOTS, program.assemble(f"{test.code}\n{END}"))
    subject.write(program.SCRATCH, bytes(4096))
    for address, value in memory_settings(test.before).items():
        subject.write(address, struct.pack("<Q", value))
    context = subject.context(program.SLOTS)
    for index in range(NUM_X):
        context.x[index] = test.before.get(f"x{index}", 0)
    for index in range(2 * NUM_V):
        context.v[index] = test.before.get(f"v{index // 2}", 0) >> 64 * (index % 2) & (1 << 64) - 1
    context.sp_el0 = test.before.get("sp", 0)
    context.pstate |= test.before.get("nzcv", 0) << 28
    context.fpcr, context.fpsr = test.before.get("fpcr", 0), test.before.get("fpsr", 0)
    subject.finish(context)
    result = {f"x{index}": int(context.x[index]) for index in range(NUM_X)}
    result |= {f"v{n}": int(context.v[2 * n] | context.v[2 * n + 1] << 64) for n in range(NUM_V)}
    result |= {"sp": context.sp_el0, "nzcv": context.spsr_el1 >> 28 & 15}
    result |= {"fpcr": context.fpcr, "fpsr": context.fpsr, "esr": context.esr_el1}
    return result


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Return the core, set up once."""
    return Subject()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_instruction(subject: Subject, path: Path) -> None:
    """The instruction leaves exactly the state that its file says."""
    test = parse(path.read_text())
    assert test.after, "the file says nothing about the outcome"
    result = run(subject, test)
    registers = {name: value for name, value in test.before.items() if not name.startswith("[")}
    expected = dict.fromkeys(result, 0) | {"esr": ESR_END} | registers
    expected |= {name: value for name, value in test.after.items() if not name.startswith("[")}
    wrong = {n: (hex(result[n]), hex(expected[n])) for n in expected if result[n] != expected[n]}
    assert not wrong, f"register: (is, should be): {wrong}"
    for address, value in memory_settings(test.after).items():
        assert struct.unpack("<Q", subject.read(address, 8))[0] == value, f"{address:#x}"
