"""PSTATE, in the layout in which an exception saves it.

Spec: Arm ARM DDI 0487, "Process state, PSTATE", SPSR_EL1.
"""

from typing import Final

from pyvmm.arch.bits import Field, Register


class SPSR_EL1(Register):
    """Saved Program Status Register of an exception from AArch64; some fields overlap."""

    NZCV = Field(31, 28, int)
    N = Field(31, 31, bool)
    Z = Field(30, 30, bool)
    C = Field(29, 29, bool)
    V = Field(28, 28, bool)
    DIT = Field(24, 24, bool)
    UAO = Field(23, 23, bool)
    PAN = Field(22, 22, bool)
    SS = Field(21, 21, bool)
    IL = Field(20, 20, bool)
    SSBS = Field(12, 12, bool)
    BTYPE = Field(11, 10, int)
    DAIF = Field(9, 6, int)
    D = Field(9, 9, bool)
    A = Field(8, 8, bool)
    I = Field(7, 7, bool)  # noqa: E741  Arm's spelling
    F = Field(6, 6, bool)
    MODE = Field(4, 0, int)  # M[4:0]: AARCH32, EL and SP
    AARCH32 = Field(4, 4, bool)
    EL = Field(3, 2, int)
    SP = Field(0, 0, bool)  # SP_ELx is the stack pointer, not SP_EL0


#: SPSR_ELx.MODE of AArch64.
EL0T: Final = 0b00000
EL1T: Final = 0b00100
EL1H: Final = 0b00101
EL2T: Final = 0b01000
EL2H: Final = 0b01001

#: What a PE starts with at EL1: all interrupts and debug exceptions masked.
EL1H_MASKED: Final = EL1H | SPSR_EL1.DAIF.mask
EL2H_MASKED: Final = EL2H | SPSR_EL1.DAIF.mask

#: Vector of an exception: where it came from, added to what it is (a synchronous one is 0).
VECTOR_CURRENT_SP0: Final = 0x000
VECTOR_CURRENT_SPX: Final = 0x200
VECTOR_LOWER_A64: Final = 0x400
VECTOR_LOWER_A32: Final = 0x600
VECTOR_IRQ: Final = 0x080
VECTOR_FIQ: Final = 0x100
VECTOR_SERROR: Final = 0x180

_MODES: Final = {EL0T: "EL0t", EL1T: "EL1t", EL1H: "EL1h", EL2T: "EL2t", EL2H: "EL2h"}
#: Fields of PSTATE shown as one letter, upper case if set.
_LETTERS: Final = (
    (SPSR_EL1.N, SPSR_EL1.Z, SPSR_EL1.C, SPSR_EL1.V),
    (SPSR_EL1.D, SPSR_EL1.A, SPSR_EL1.I, SPSR_EL1.F),
)
#: Fields of PSTATE shown by name if set.
_NAMES: Final = (SPSR_EL1.DIT, SPSR_EL1.PAN, SPSR_EL1.SS, SPSR_EL1.IL, SPSR_EL1.SSBS)


def describe_pstate(pstate: int) -> str:
    """Return PSTATE as text.

    >>> describe_pstate(0x6040_03C5)
    'EL1h nZCv DAIF PAN'
    """
    mode = _MODES.get(SPSR_EL1(pstate).MODE, "?")
    letters = (
        "".join(flag.name if flag.decode(pstate) else flag.name.lower() for flag in flags)
        for flags in _LETTERS
    )
    return " ".join([mode, *letters, *(flag.name for flag in _NAMES if flag.decode(pstate))])
