"""The wires from a PE with EL2 to the distributor, which forwards their interrupts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import pytest

from pyvmm.arch.gic import GICD_CTLR_GRP1, PPI_HYP_PHYSICAL_TIMER
from pyvmm.arch.machine import PeContextWithEl2
from pyvmm.host import cpu_interface
from pyvmm.host.el2 import Wires
from pyvmm.host.vgic import Vgic


@dataclass
class Levels:
    """The registers that the wires see."""

    cntv_ctl: int = 0
    cntp_ctl: int = 0
    cnthp_ctl: int = 0
    cnthv_ctl: int = 0
    maintenance: int = 0
    pmu_overflow: int = 0


def make_vgic(kicks: list[int]) -> Vgic:
    """Return a distributor that forwards the timer of EL2."""
    vgic = Vgic(1, kick=kicks.append)
    vgic.groups = GICD_CTLR_GRP1
    vgic.cpus[0].private.enabled = 1 << PPI_HYP_PHYSICAL_TIMER
    return vgic


def intids(lrs: Sequence[int]) -> list[int]:
    """Return the interrupts in list registers."""
    return [lr & 0x3FF for lr in lrs if lr]


def test_the_timer_of_el2_is_ppi_26() -> None:
    """Its output rises and falls; one that is masked has no output."""
    vgic = make_vgic([])
    wires = Wires(vgic, 0)
    wires.sample(Levels(cnthp_ctl=0b111))
    assert intids(vgic.load_lrs(0)) == []
    wires.sample(Levels(cnthp_ctl=0b101))
    assert intids(vgic.load_lrs(0)) == [PPI_HYP_PHYSICAL_TIMER]
    wires.sample(Levels())
    vgic.sync_lrs(0, [0, 0, 0, 0])
    assert intids(vgic.load_lrs(0)) == []


PMR_F8, GROUP1_ON = 0xF8 << 24, 2


@dataclass
class Interface:
    """The registers of a physical interface."""

    icc_vmcr: int = PMR_F8 | GROUP1_ON
    icc_ap0r0: int = 0
    icc_ap1r0: int = 0


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        (Interface(), (0, 0xF8)),
        (Interface(icc_vmcr=PMR_F8), (0, 0)),
        (Interface(icc_vmcr=0x80 << 24 | 3), (0x80, 0x80)),
        (Interface(icc_ap1r0=1 << 20 | 1 << 25), (0, 0xA0)),
    ],
)
def test_what_the_interface_masks(registers: Interface, expected: tuple[int, int]) -> None:
    """The mask, the enables of the groups, and the running priority."""
    assert cpu_interface.limits(cast("PeContextWithEl2", registers)) == expected


@pytest.mark.parametrize(("priority", "expected"), [(0x80, [0]), (0xA0, [])])
def test_an_interrupt_that_is_masked_does_not_kick(priority: int, expected: list[int]) -> None:
    """While the interface of the CPU cannot signal it; afterwards it is in a list register."""
    kicks: list[int] = []
    vgic = make_vgic(kicks)
    vgic.cpus[0].private.priority[PPI_HYP_PHYSICAL_TIMER] = priority
    vgic.limit(0, (0, 0xA0))
    vgic.load_lrs(0)
    assert vgic.may_signal(0, PPI_HYP_PHYSICAL_TIMER) == bool(expected)
    vgic.set_ppi(0, PPI_HYP_PHYSICAL_TIMER, level=True)
    assert kicks == expected
    lrs = vgic.load_lrs(0)
    assert intids(lrs) == [PPI_HYP_PHYSICAL_TIMER]
    assert cpu_interface.signals(lrs, (0, 0xA0)) == bool(expected)
