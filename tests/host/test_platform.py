"""The setup by the composition root before a guest exists."""

from pyvmm.arch.exits import ExitReason, IrqCause
from pyvmm.arch.gic import ICH_HCR_EN, ICH_HCR_UIE
from pyvmm.platform import Platform

NUM_CPUS = 2


def test_host_takes_the_maintenance_interrupt_of_every_pe() -> None:
    """A maintenance condition enabled by the host ends a run before its first instruction."""
    machine = Platform(8 << 20, NUM_CPUS).machine
    for index in range(NUM_CPUS):
        context = machine.new_context()
        context.ich_hcr = ICH_HCR_EN | ICH_HCR_UIE
        exit_ = machine.pe(index).run(context, 1)
        assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, IrqCause.MAINTENANCE)
