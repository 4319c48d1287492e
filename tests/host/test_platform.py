"""The setup by the composition root before a guest exists."""

import pytest

from pyvmm.arch.engine import Engine
from pyvmm.arch.errors import UserError
from pyvmm.arch.exits import ExitReason, IrqCause
from pyvmm.arch.gic import ICH_HCR_EN, ICH_HCR_UIE
from pyvmm.platform import Platform
from tests.core.engines import forbid_generated_code

NUM_CPUS = 2


def test_host_takes_the_maintenance_interrupt_of_every_pe() -> None:
    """A maintenance condition enabled by the host ends a run before its first instruction."""
    machine = Platform(8 << 20, NUM_CPUS).machine
    for index in range(NUM_CPUS):
        context = machine.new_context()
        context.ich_hcr = ICH_HCR_EN | ICH_HCR_UIE
        exit_ = machine.pe(index).run(context, 1)
        assert (exit_.reason, exit_.irq) == (ExitReason.IRQ, IrqCause.MAINTENANCE)


def test_without_generated_code_the_guest_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One notice, unless the user has chosen the engine."""
    monkeypatch.setattr("pyvmm.platform.DEFAULT_ENGINE", Engine.JIT)
    forbid_generated_code(monkeypatch)
    platform = Platform(8 << 20, NUM_CPUS)
    assert "interpreted" in platform.notice
    assert platform.machine.num_translated == 0
    with pytest.raises(UserError, match="give --engine interp"):
        Platform(8 << 20, NUM_CPUS, engine=Engine.JIT)
    assert not Platform(8 << 20, NUM_CPUS, engine=Engine.INTERP).notice
