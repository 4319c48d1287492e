"""The result of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One figure and, if QEMU is installed, QEMU's figure for the same work."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    """The lowest acceptable rate, or the highest acceptable time, by the unit."""
    peer: float | None = None
    goal_ratio: float | None = None
    """The highest acceptable ratio to the peer's time, or the lowest to its rate."""

    @property
    def less_is_better(self) -> bool:
        """Return whether less is better."""
        return self.unit in {"s", "µs", "ns", "MiB"}

    @property
    def ratio(self) -> float | None:
        """Return value over peer."""
        return self.value / self.peer if self.peer else None

    @property
    def is_met(self) -> bool:
        """Return whether every goal is met."""
        return self._reaches(self.ratio, self.goal_ratio) and self._reaches(self.value, self.goal)

    def _reaches(self, figure: float | None, goal: float | None) -> bool:
        if figure is None or goal is None:
            return True
        return figure <= goal if self.less_is_better else figure >= goal
