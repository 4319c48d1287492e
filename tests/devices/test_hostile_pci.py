"""A PCI function against any guest: configuration space, BARs, registers and vectors."""

from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch.errors import RepeatAccess
from pyvmm.devices.pci import config as pci
from tests.devices.driver import RAM_BASE
from tests.devices.pci_driver import BAR, MESSAGE_ADDRESS
from tests.devices.test_pci import console, show
from tests.sequences import sequences

SIZES: Final = st.sampled_from((1, 2, 4, 8))
VALUES: Final = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 16),
    st.sampled_from((BAR, RAM_BASE, 0xC000, 0x8000, 0x7FFF_8000, 0xFFFF_FFFF)),
)
ACCESSES: Final = st.one_of(
    st.tuples(st.just("config"), st.integers(0, 0x1000), SIZES, VALUES),
    st.tuples(st.just("config"), st.integers(0, 0xB0), SIZES, VALUES),
    st.tuples(st.just("common"), st.integers(0, 0x40), SIZES, VALUES),
    st.tuples(st.just("registers"), st.integers(0, 0x8000), SIZES, VALUES),
    st.tuples(st.just("table"), st.integers(0x4000, 0x4100), SIZES, VALUES),
)


def abuse(accesses: list[tuple[str, int, int, int]]) -> None:
    """Access everything; then a driver starts the device again, and it works."""
    driver = console().use_msix()
    for where, offset, size, value in accesses:
        data = value & (1 << 8 * size) - 1
        with suppress(RepeatAccess):
            if where == "config":
                driver.write_pci(offset, size, data)
                assert 0 <= driver.read_pci(offset, size) < 1 << 8 * size
            else:
                driver.function.write(offset, size, data)
                assert 0 <= driver.function.read(offset, size) < 1 << 8 * size
    driver.write_pci(pci.BAR, 4, BAR)
    driver.write_pci(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
    driver.start().use_msix()
    driver.messages.clear()
    show(driver)
    assert len(driver.rings[1].used_entries()) == 1
    assert driver.messages == [(MESSAGE_ADDRESS, 102)]


@settings(max_examples=150)
@given(accesses=st.lists(ACCESSES, max_size=40))
def test_function_survives_any_guest(accesses: list[tuple[str, int, int, int]]) -> None:
    """No access raises an exception, and a reset repairs what they broke."""
    abuse(accesses)


@pytest.mark.slow
def test_function_survives_any_guest_for_long(seed: int) -> None:
    """This is the same a million times."""
    for each in sequences(ACCESSES, seed):
        abuse(each)
