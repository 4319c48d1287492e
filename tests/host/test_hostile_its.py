"""The ITS against any guest: registers, commands, tables and messages in any order."""

from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch import gic, its
from pyvmm.arch.its import ItsCommand
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.host.vgic import FIRST_LPI_BIT, NO_LRS
from tests.host.fakes import DRAM_BASE
from tests.host.its_driver import (
    COLLECTIONS,
    CONFIG,
    DEVICE,
    DEVICES,
    ITTS,
    LPI,
    MEMORY_SIZE,
    PENDING,
    QUEUE,
    VALID,
    ItsBoard,
)
from tests.sequences import sequences

ADDRESSES: Final = st.one_of(
    st.sampled_from((QUEUE, DEVICES, COLLECTIONS, ITTS, CONFIG, PENDING, DRAM_BASE - 0x1000)),
    st.integers(0, (1 << 52) - 1),
    st.just(DRAM_BASE + MEMORY_SIZE - 0x1000),
)
WORDS: Final = st.one_of(
    st.integers(0, (1 << 64) - 1),
    ADDRESSES.map(lambda address: VALID | address),
    st.integers(0, 3),
    st.tuples(st.integers(0, 40), st.integers(LPI - 2, LPI + gic.NUM_LPIS + 2)).map(
        lambda pair: pair[0] | pair[1] << 32
    ),
    st.integers(0, 4).map(lambda cpu: cpu << 16),
)
COMMANDS: Final = st.tuples(
    st.one_of(st.sampled_from(ItsCommand), st.integers(0, 255)),
    st.one_of(st.sampled_from((DEVICE, 0, 511, 512)), st.integers(0, (1 << 32) - 1)),
    WORDS,
    WORDS,
    WORDS,
)
REGISTERS: Final = st.one_of(
    st.sampled_from(
        (its.GITS_CTLR, its.GITS_CBASER, its.GITS_CWRITER, its.GITS_BASER, its.GITS_BASER + 8)
    ),
    st.integers(0, its.ITS_SIZE - 8),
)
GICR_REGISTERS: Final = st.sampled_from(
    (gic.GICR_CTLR, gic.GICR_PROPBASER, gic.GICR_PENDBASER, gic.GICR_INVLPIR, gic.GICR_INVALLR)
)
ARGUMENTS: Final = {
    "command": COMMANDS,
    "its": st.tuples(REGISTERS, st.sampled_from((1, 2, 4, 8)), WORDS),
    "gicr": st.tuples(GICR_REGISTERS, st.sampled_from((4, 8)), WORDS),
    "memory": st.tuples(ADDRESSES, WORDS),
    "refuse": st.tuples(ADDRESSES),
    "signal": st.tuples(st.integers(0, 600), st.integers(0, 1 << 17)),
    "enter": st.tuples(st.integers(0, 1), st.booleans()),
}
ACTIONS: Final = st.one_of(
    *(st.tuples(st.just(name), arguments) for name, arguments in ARGUMENTS.items())
)


class HostileGuest:
    """A guest with a working ITS, which it then abuses."""

    def __init__(self) -> None:
        self.board = ItsBoard().start()
        self.board.map_device()
        self.board.map(0, LPI)

    def command(self, kind: int, first: int, second: int, third: int, last: int) -> None:
        """Execute any command, if the queue is still where it was."""
        self.board.command(kind, first, second, third, last)

    def its(self, offset: int, size: int, value: int) -> None:
        """Write and read any register of the ITS."""
        self.board.its.write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= self.board.its.read(offset, size) < 1 << 8 * size

    def gicr(self, offset: int, size: int, value: int) -> None:
        """Write and read any register of a redistributor that concerns LPIs."""
        gicr = self.board.gicrs[value & 1]
        gicr.write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= gicr.read(offset, size) < 1 << 8 * size

    def memory(self, address: int, value: int) -> None:
        """Write to any table."""
        with suppress(GranuleProtectionFault):
            self.board.memory.write(address, value.to_bytes(8, "little"))

    def refuse(self, address: int) -> None:
        """Stop to share a page, or share it again."""
        self.board.memory.refused ^= {address & ~0xFFF}

    def signal(self, device: int, event: int) -> None:
        """Send a message of any device."""
        self.board.its.signal(device, event)

    def enter(self, cpu: int, is_taken: bool) -> None:
        """Run a CPU, which may take what is pending."""
        lrs = list(self.board.vgic.load_lrs(cpu))
        for lr in filter(None, lrs):
            assert lr & gic.ICH_LR_INTID_MASK in range(LPI, LPI + gic.NUM_LPIS)
        self.board.vgic.sync_lrs(cpu, NO_LRS if is_taken else lrs)

    def act(self, name: str, arguments: tuple[int, ...]) -> None:
        """Do what an action says."""
        match name:
            case "command":
                self.command(*arguments)
            case "its":
                self.its(*arguments)
            case "gicr":
                self.gicr(*arguments)
            case "memory":
                self.memory(*arguments)
            case "refuse":
                self.refuse(*arguments)
            case "signal":
                self.signal(*arguments)
            case _:
                self.enter(arguments[0], bool(arguments[1]))

    def is_sane(self) -> bool:
        """Check that the host keeps nothing but LPIs, and that no list register is lost."""
        limit = 1 << FIRST_LPI_BIT + gic.NUM_LPIS
        cpus = self.board.vgic.cpus
        return all(
            cpu.lpis.latch < limit and cpu.lpis.enabled < limit and not cpu.leaving and not cpu.held
            for cpu in cpus
        )


def abuse(actions: list[tuple[str, tuple[int, ...]]]) -> None:
    """Let a guest act; then it resets what it broke, and a message arrives."""
    guest = HostileGuest()
    for name, arguments in actions:
        guest.act(name, arguments)
        assert guest.is_sane()
    board = guest.board
    board.memory.refused.clear()
    board.its.write(its.GITS_CTLR, 4, 0)
    for cpu in (0, 1):
        board.enable_lpis(cpu, is_enabled=False)
    board.memory.write(DRAM_BASE, bytes(MEMORY_SIZE))
    board.written = 0
    board.start()
    board.map_device()
    board.map(0, LPI)
    board.its.signal(DEVICE, 0)
    assert board.take() == [LPI]


@settings(max_examples=150)
@given(actions=st.lists(ACTIONS, max_size=40))
def test_its_survives_any_guest(actions: list[tuple[str, tuple[int, ...]]]) -> None:
    """No exception, no state beyond its tables, and it works again after it is set up again."""
    abuse(actions)


@pytest.mark.slow
def test_its_survives_any_guest_for_long(seed: int) -> None:
    """This is the same a million times."""
    for each in sequences(ACTIONS, seed):
        abuse(each)
