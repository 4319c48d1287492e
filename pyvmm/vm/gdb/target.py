"""The target description for GDB: the registers, in the order of their numbers.

The last feature is ours; the others are defined by GDB, so that it knows their meaning.
"""

from collections.abc import Iterable
from typing import Final

from pyvmm.host.registers import CODE_MASKS, CORE, FLOATING, SYSTEM, Register

#: By GDB's number.
REGISTERS: Final = (*CORE, *FLOATING, *CODE_MASKS, *SYSTEM)
#: The number of registers in the command ``g``; GDB reads the others one by one.
NUM_TOGETHER: Final = len(CORE) + len(FLOATING)

_TYPES: Final = {"sp": "data_ptr", "pc": "code_ptr", "cpsr": "cpsr_flags"}
_CPSR: Final = {
    "SP": 0, "EL": 2, "F": 6, "I": 7, "A": 8, "D": 9, "BTYPE": 10, "SSBS": 12, "IL": 20,
    "SS": 21, "PAN": 22, "DIT": 24, "V": 28, "C": 29, "Z": 30, "N": 31,
}  # fmt: skip
_TWO_BITS: Final = frozenset({"EL", "BTYPE"})
#: Views of a vector register: name, type of a lane, lanes.
_VIEWS: Final = (
    ("d", "ieee_double", 2),
    ("s", "ieee_single", 4),
    ("u8", "uint8", 16),
    ("u16", "uint16", 8),
    ("u32", "uint32", 4),
    ("u64", "uint64", 2),
)


def register_size(register: Register) -> int:
    """Return the size of a register on the wire in bytes."""
    return register.bits // 8


def target_xml() -> bytes:
    """Return the target description."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        "<architecture>aarch64</architecture>",
        '<feature name="org.gnu.gdb.aarch64.core">',
        *_cpsr_flags(),
        *(_reg(register, _TYPES.get(register.name, "int")) for register in CORE),
        "</feature>",
        '<feature name="org.gnu.gdb.aarch64.fpu">',
        *_vector_types(),
        *(_reg(r, "vector" if r.name.startswith("v") else "int") for r in FLOATING),
        "</feature>",
        '<feature name="org.gnu.gdb.aarch64.pauth_v2">',
        *(_reg(register, "int", "system") for register in CODE_MASKS),
        "</feature>",
        '<feature name="org.pyvmm.aarch64.system">',
        *(_reg(register, "int", "system") for register in SYSTEM),
        "</feature>",
        "</target>",
    ]
    return "\n".join(lines).encode()


def _reg(register: Register, type_: str, group: str = "") -> str:
    words = [f'<reg name="{register.name}" bitsize="{register.bits}" type="{type_}"']
    words += [f'group="{group}" save-restore="no"'] if group else []
    return " ".join([*words, "/>"])


def _cpsr_flags() -> Iterable[str]:
    yield '<flags id="cpsr_flags" size="4">'
    for name, bit in _CPSR.items():
        yield f'<field name="{name}" start="{bit}" end="{bit + (name in _TWO_BITS)}"/>'
    yield "</flags>"


def _vector_types() -> Iterable[str]:
    for name, type_, count in _VIEWS:
        yield f'<vector id="lanes_{name}" type="{type_}" count="{count}"/>'
    yield '<union id="vector">'
    for name, _, _ in _VIEWS:
        yield f'<field name="{name}" type="lanes_{name}"/>'
    yield "</union>"
