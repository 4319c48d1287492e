"""A guest's registers by their names in debuggers, with access functions.

X0 to X30, SP and PC; PSTATE under its GDB name cpsr; V0 to V31, FPSR, FPCR; and the system
registers of EL1 that are storage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.bits import MASK32, MASK64
from pyvmm.arch.el1 import MAX_TNSZ, MIN_TNSZ, TCR_EL1
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.pstate import EL0T, EL1H, EL1T, SPSR_EL1
from pyvmm.arch.sysregs import SYSREGS, SysReg

MODE: Final = SPSR_EL1.MODE.mask
BIT_55: Final = 1 << 55
TOP_BYTE: Final = 0xFF << 56

Getter = Callable[[GuestRegisters], int]
Setter = Callable[[GuestRegisters, int], None]


class BadValueError(Exception):
    """The register cannot have this value in our guests."""


@dataclass(frozen=True, slots=True)
class Register:
    """One register: its name and its width in bits."""

    name: str
    bits: int
    get: Getter
    set: Setter


def exception_level(registers: GuestRegisters) -> int:
    """Return the current exception level, 0 or 1."""
    return SPSR_EL1(registers.pstate).EL


def _field(name: str, bits: int, field: str = "", mask: int = MASK64, fixed: int = 0) -> Register:
    def read(registers: GuestRegisters) -> int:
        return int(getattr(registers, field or name))

    def write(registers: GuestRegisters, value: int) -> None:
        setattr(registers, field or name, value & mask | fixed)

    return Register(name, bits, read, write)


def _general(n: int) -> Register:
    def read(registers: GuestRegisters) -> int:
        return registers.x[n]

    def write(registers: GuestRegisters, value: int) -> None:
        registers.x[n] = value

    return Register(f"x{n}", 64, read, write)


def _vector(n: int) -> Register:
    def read(registers: GuestRegisters) -> int:
        return registers.v[2 * n] | registers.v[2 * n + 1] << 64

    def write(registers: GuestRegisters, value: int) -> None:
        registers.v[2 * n], registers.v[2 * n + 1] = value & MASK64, value >> 64

    return Register(f"v{n}", 128, read, write)


def _uses_sp_el1(registers: GuestRegisters) -> bool:
    return registers.pstate & MODE == EL1H


def _read_sp(registers: GuestRegisters) -> int:
    return registers.sp_el1 if _uses_sp_el1(registers) else registers.sp_el0


def _write_sp(registers: GuestRegisters, value: int) -> None:
    if _uses_sp_el1(registers):
        registers.sp_el1 = value
    else:
        registers.sp_el0 = value


def _read_pstate(registers: GuestRegisters) -> int:
    return registers.pstate & MASK32


def _write_pstate(registers: GuestRegisters, value: int) -> None:
    if value & MODE not in {EL0T, EL1T, EL1H}:
        raise BadValueError
    registers.pstate = value


def _system(row: SysReg, member: str) -> Register:
    return _field(row.name, 64, member, row.writable, row.res1)


def _code_mask(name: str, *, data: bool, high: bool) -> Register:
    """Return the register with the mask of a pointer's authentication code."""

    def read(registers: GuestRegisters) -> int:
        tcr = TCR_EL1(TCR.get(registers))
        ignored, not_of_code = (tcr.TBI1, tcr.TBID1) if high else (tcr.TBI0, tcr.TBID0)
        has_tag = ignored and (data or not not_of_code)
        size_offset = tcr.T1SZ if high else tcr.T0SZ
        bottom = 64 - min(max(size_offset, MIN_TNSZ), MAX_TNSZ)
        return BIT_55 - (1 << bottom) | (0 if has_tag else TOP_BYTE)

    def write(_registers: GuestRegisters, _value: int) -> None:
        raise BadValueError

    return Register(name, 64, read, write)


PC: Final = _field("pc", 64)
TCR: Final = _field("tcr_el1", 64)
SP: Final = Register("sp", 64, _read_sp, _write_sp)
PSTATE: Final = Register("cpsr", 32, _read_pstate, _write_pstate)
GENERAL: Final = tuple(map(_general, range(31)))
CORE: Final = (*GENERAL, SP, PC, PSTATE)
FLOATING: Final = (
    *map(_vector, range(32)),
    _field("fpsr", 32, mask=MASK32),
    _field("fpcr", 32, mask=MASK32),
)
#: Masks that GDB needs to follow signed return addresses, by its names; they cannot be set.
CODE_MASKS: Final = (
    _code_mask("pauth_dmask", data=True, high=False),
    _code_mask("pauth_cmask", data=False, high=False),
    _code_mask("pauth_dmask_high", data=True, high=True),
    _code_mask("pauth_cmask_high", data=False, high=True),
)
SYSTEM: Final = (
    _field("SP_EL0", 64, "sp_el0"),
    _field("SP_EL1", 64, "sp_el1"),
    *(_system(row, row.saved) for row in SYSREGS if row.saved and row.name != "SP_EL0"),
)
