"""A guest that computes without progress is reported once; one that works or waits never is."""

from collections.abc import Iterator
from itertools import count

import pytest

from pyvmm.host.guest import ExitKind
from pyvmm.vm.diagnosis.advice import MANY_FAULTS
from pyvmm.vm.diagnosis.spin import PATIENCE, SpinWatch
from pyvmm.vm.options import VmOptions

VM, REALM = VmOptions(), VmOptions(is_realm=True)


def exits(**counts: int) -> list[list[int]]:
    """Return the counters of two vCPUs, of which the second is off."""
    row = [0] * len(ExitKind)
    for name, value in counts.items():
        row[ExitKind[name.upper()]] = value
    return [row, [0] * len(ExitKind)]


class Guest:
    """A guest that computes all the time, or never, and the lines about it."""

    def __init__(self, options: VmOptions, *, is_busy: bool = True) -> None:
        self._ticks: Iterator[float] = count() if is_busy else iter([0.0] * 100)
        self._watch = SpinWatch(options, lambda: next(self._ticks))
        self.said: list[str] = []

    def watch(
        self, rows: Iterator[list[list[int]]] | list[list[list[int]]], output: int = 0
    ) -> str:
        """Check it, with a second of CPU time per row; return all lines about it."""
        self.said += filter(None, (self._watch.look(row, output) for row in rows))
        return "\n".join(self.said)


LONG = int(PATIENCE) + 10


def test_faults_and_nothing_else_are_a_kernel_of_another_machine() -> None:
    """It is reported once, after the patience; also later in its life."""
    guest = Guest(VM)
    storm = [exits(other=n * MANY_FAULTS) for n in range(LONG)]
    assert guest.watch(storm[: int(PATIENCE)]) == ""
    assert "it faults over and over" in guest.watch(storm[int(PATIENCE) :])
    assert len(guest.said) == 1
    panicked = Guest(VM)
    rows = [exits(mmio=500, psci=3, other=n * MANY_FAULTS) for n in range(LONG)]
    assert "it faults over and over" in panicked.watch(rows, output=1000)


@pytest.mark.parametrize(
    ("options", "words"),
    [(VM, "try -p earlycon"), (REALM, "without realm support (Linux has it from 6.13 on)")],
)
def test_a_guest_that_only_computes_is_told(options: VmOptions, words: str) -> None:
    """It used its memory, and the host got one interrupt."""
    guest = Guest(options)
    assert words in guest.watch([exits(fault=118, irq=1)] * LONG)
    assert len(guest.said) == 1


@pytest.mark.parametrize("options", [VM, REALM])
@pytest.mark.parametrize("kind", [kind for kind in ExitKind if kind is not ExitKind.OTHER])
def test_a_guest_with_any_sign_of_life_is_left_alone(options: VmOptions, kind: ExitKind) -> None:
    """A request of any kind counts, as long as there is a new one each time."""
    assert Guest(options).watch([exits(**{kind.name: n}) for n in range(LONG)]) == ""


def test_a_guest_that_was_heard_of_may_compute_for_ever() -> None:
    """It has printed or used a device; a few faults, as by probing, do not count."""
    assert Guest(VM).watch([exits(other=n) for n in range(LONG)], output=1) == ""
    assert Guest(REALM).watch([exits(mmio=1)] * LONG) == ""
    assert Guest(REALM).watch([exits(ripas=1)] * LONG) == ""


def test_time_that_it_does_not_compute_is_none() -> None:
    """It waits for an interrupt, a debugger holds it, or the host is busy."""
    assert Guest(VM, is_busy=False).watch([exits()] * 50) == ""
