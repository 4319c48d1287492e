"""Instructions as text."""

from collections.abc import Iterator, Mapping
from typing import Final

from capstone import CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN, Cs

INSTRUCTION: Final = 4  # bytes


def disassemble(words: Mapping[int, int]) -> Iterator[str]:
    """Yield each instruction, given by its address, as text; an invalid one as data."""
    disassembler = Cs(CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN)
    for address, word in words.items():
        for found in disassembler.disasm(word.to_bytes(INSTRUCTION, "little"), address):
            yield f"{found.mnemonic} {found.op_str}".strip()
            break
        else:
            yield f".word {word:#010x}"
