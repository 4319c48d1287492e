"""The oracle of the instruction fuzz: Unicorn, which is QEMU's A64 at EL0.

Two CPUs: ``max`` executes the cases, for it has the later extensions that we advertise; a
Cortex-A72 says what is UNDEFINED, for it has none of those that we do not.
"""

from __future__ import annotations

import struct
from typing import Final

from unicorn import UC_ARCH_ARM64, UC_HOOK_INTR, UC_MODE_ARM, Uc, UcError
from unicorn.arm64_const import (
    UC_ARM64_REG_CPACR_EL1,
    UC_ARM64_REG_NZCV,
    UC_ARM64_REG_PC,
    UC_ARM64_REG_PSTATE,
    UC_ARM64_REG_SP,
    UC_ARM64_REG_X0,
    UC_ARM64_REG_X29,
    UC_ARM64_REG_X30,
    UC_CPU_ARM64_A72,
    UC_CPU_ARM64_MAX,
)

from tests.core import program
from tests.core.values import NZCV_OFFSET, SP_OFFSET

EXCP_UNDEFINED = 1  # QEMU's exception numbers
FP_ENABLE = 3 << 20


class Oracle:
    """Unicorn with the fuzz program's memory."""

    def __init__(self, model: int = UC_CPU_ARM64_MAX) -> None:
        self._uc: Final = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self._uc.ctl_set_cpu_model(model)
        self._uc.mem_map(program.BASE, program.END - program.BASE)
        self._uc.reg_write(UC_ARM64_REG_CPACR_EL1, FP_ENABLE)
        self._uc.reg_write(UC_ARM64_REG_PSTATE, 0)
        self._uc.hook_add(UC_HOOK_INTR, self._on_exception)
        self._exceptions: list[int] = []

    def _on_exception(self, _uc: Uc, number: int, _data: object) -> None:
        self._exceptions.append(number)
        self._uc.emu_stop()

    def write(self, va: int, data: bytes | bytearray) -> None:
        """Write guest memory, code included."""
        self._uc.mem_write(va, bytes(data))

    def read(self, va: int, size: int) -> bytes:
        """Read guest memory."""
        return bytes(self._uc.mem_read(va, size))

    def run(self) -> int | None:
        """Run the fuzz program to its end.  Returns the PC of a case that trapped, or None."""
        self._uc.ctl_flush_tb()
        end = program.driver()[2]
        self._exceptions.clear()
        try:
            self._uc.emu_start(program.DRIVER, end)
        except UcError:
            return int(self._uc.reg_read(UC_ARM64_REG_PC))
        if self._exceptions:
            return int(self._uc.reg_read(UC_ARM64_REG_PC))
        return None

    def is_undefined(self, word: int) -> bool:
        """Tell whether one word takes an Undefined Instruction exception."""
        self._uc.mem_write(program.SLOTS, struct.pack("<I", word))
        self._uc.ctl_flush_tb()
        self._exceptions.clear()
        try:
            self._uc.emu_start(program.SLOTS, 0, count=1)
        except UcError:
            return False  # it got as far as a memory access
        return EXCP_UNDEFINED in self._exceptions

    def step_branch(self, pc: int, record: bytes) -> tuple[int, int]:
        """Execute the one instruction at ``pc``.  Returns the next PC and X30."""
        self._load(record)
        self._uc.ctl_flush_tb()
        self._uc.emu_start(pc, 0, count=1)
        return int(self._uc.reg_read(UC_ARM64_REG_PC)), int(self._uc.reg_read(UC_ARM64_REG_X30))

    def _load(self, record: bytes) -> None:
        general = struct.unpack_from("<31Q", record)
        for index, value in enumerate(general[:29]):
            self._uc.reg_write(UC_ARM64_REG_X0 + index, value)
        self._uc.reg_write(UC_ARM64_REG_X29, general[29])
        self._uc.reg_write(UC_ARM64_REG_X30, general[30])
        self._uc.reg_write(UC_ARM64_REG_SP, struct.unpack_from("<Q", record, SP_OFFSET)[0])
        self._uc.reg_write(UC_ARM64_REG_NZCV, struct.unpack_from("<Q", record, NZCV_OFFSET)[0])


def undefined_oracle() -> Oracle:
    """Return the oracle that knows no extension beyond Armv8.0, CRC32 and the crypto ones."""
    return Oracle(UC_CPU_ARM64_A72)
