"""An instance's activity per second, from two readings of its statistics."""

from dataclasses import dataclass
from typing import Self

from pyvmm.vm.control.api import Statistics


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates per second; I/O is summed over all disks and over all networks."""

    instructions: float
    exits: dict[str, float]  # by kind, the most frequent first
    disk_bytes: float
    network_bytes: float

    @classmethod
    def of(cls, before: Statistics, after: Statistics) -> Self:
        """Compare two readings of one instance."""
        time = max(after.time - before.time, 1e-9)
        old, new = _exits(before), _exits(after)
        exits = {kind: (new[kind] - old.get(kind, 0)) / time for kind in new}
        return cls(
            (_instructions(after) - _instructions(before)) / time,
            dict(sorted(exits.items(), key=lambda each: -each[1])),
            (_bytes(after, "blk") - _bytes(before, "blk")) / time,
            (_bytes(after, "net") - _bytes(before, "net")) / time,
        )


def _instructions(statistics: Statistics) -> int:
    return sum(vcpu.instructions for vcpu in statistics.vcpus)


def _exits(statistics: Statistics) -> dict[str, int]:
    kinds = {kind for vcpu in statistics.vcpus for kind in vcpu.exits}
    return {kind: sum(vcpu.exits.get(kind, 0) for vcpu in statistics.vcpus) for kind in kinds}


def _bytes(statistics: Statistics, kind: str) -> int:
    return sum(
        value
        for device, counters in statistics.devices.items()
        if device.startswith(kind)
        for name, value in counters.items()
        if name.endswith("_bytes")
    )
