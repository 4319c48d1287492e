"""What a benchmark gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One figure, and that of QEMU for the same work where QEMU is installed."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    """The least rate or the greatest time we accept; its sense follows from the unit."""
    peer: float | None = None
    goal_ratio: float | None = None
    """The greatest ratio to the peer's time that we accept."""

    @property
    def is_time(self) -> bool:
        """Tell whether less is better."""
        return self.unit in {"s", "µs", "ns"}

    @property
    def ratio(self) -> float | None:
        """Return value over peer."""
        return self.value / self.peer if self.peer else None

    @property
    def is_met(self) -> bool:
        """Tell whether every goal that is set is met."""
        if self.ratio is not None and self.goal_ratio is not None and self.ratio > self.goal_ratio:
            return False
        if self.goal is None:
            return True
        return self.value <= self.goal if self.is_time else self.value >= self.goal
