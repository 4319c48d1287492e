"""The wires from a PE with EL2 to the distributor, which forwards their interrupts."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.arch.gic import GICD_CTLR_GRP1, PPI_HYP_PHYSICAL_TIMER
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
