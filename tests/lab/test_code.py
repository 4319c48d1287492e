"""The lab's code is what its listings say."""

import pytest
from keystone import KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN, Ks

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.lab import code
from pyvmm.lab.exercises import blocks, exit_loop, list_registers, serial


@pytest.mark.parametrize(
    "listing",
    [
        code.SERVICE, code.VECTOR, code.LOAD, code.STORE, code.KEEP, code.GIVE_AWAY, code.HAVE_NONE,
        serial.PROGRAM, exit_loop.PROGRAM, exit_loop.PAIR, list_registers.PROGRAM, blocks.BRANCHES,
    ],
)  # fmt: skip
def test_words_are_those_of_the_assembly(listing: str) -> None:
    """Assembled by keystone."""
    lines = [line.strip() for line in listing.strip().splitlines()]
    text = "\n".join(line if line.endswith(":") else line.split(None, 1)[1] for line in lines)
    assembled, _ = Ks(KS_ARCH_ARM64, KS_MODE_LITTLE_ENDIAN).asm(text)
    assert bytes(assembled or b"") == code.words(listing)


def test_service_fits_its_page() -> None:
    """With its vector in its place; the variants differ in one instruction."""
    service = code.service()
    assert service.index(code.words(code.VECTOR)) == code.VECTOR_OFFSET
    assert len(service) <= GRANULE_SIZE
    for variant in (code.GIVE_AWAY, code.HAVE_NONE):
        other = code.service(variant)
        different = [n for n in range(len(service)) if service[n] != other[n]]
        assert different
        assert different[-1] - different[0] < 4
