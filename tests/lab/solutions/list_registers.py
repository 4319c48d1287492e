"""A solution of exercise list-registers."""


def fill(pending: list[tuple[int, int]], count: int) -> list[int]:
    """Choose and encode."""
    urgent = sorted((priority, intid) for intid, priority in pending)[:count]
    return [1 << 62 | 1 << 60 | priority << 48 | intid for priority, intid in urgent]
