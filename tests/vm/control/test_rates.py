"""Rates per second, from two readings."""

from pyvmm.vm.control.api import Statistics, VcpuStatistics
from pyvmm.vm.control.rates import Rates


def reading(time: float, factor: int) -> Statistics:
    """Return a reading of two vCPUs, two disks and a network card."""
    return Statistics(
        time,
        [VcpuStatistics(10 * factor, {"mmio": factor, "irq": 3 * factor}) for _ in range(2)],
        {},
        {
            "blk0": {"reads": factor, "read_bytes": 100 * factor, "written_bytes": 0},
            "blk1": {"read_bytes": 0, "written_bytes": factor},
            "net2": {"sent_frames": factor, "sent_bytes": 7 * factor},
            "console": {"output_bytes": factor},
        },
    )


def test_rates_are_sums_of_differences() -> None:
    """They sum all vCPUs and all devices of a kind, divided by the time between the readings."""
    rates = Rates.of(reading(1.0, 5), reading(3.0, 9))
    assert rates == Rates(40.0, {"irq": 12.0, "mmio": 4.0}, 202.0, 14.0)
    assert list(rates.exits) == ["irq", "mmio"]


def test_no_time_is_no_division_by_zero() -> None:
    """Two readings may have the same time."""
    assert Rates.of(reading(1.0, 5), reading(1.0, 5)).instructions == 0
