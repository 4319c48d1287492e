"""Random sequences in millions, for the slow tests of what depends on order."""

from collections.abc import Iterator
from random import Random
from typing import TypeVar

from hypothesis import Phase, given, settings
from hypothesis import seed as use_seed
from hypothesis import strategies as st

T = TypeVar("T")
_BATCH = 50
_POOL = 20_000


def pool(strategy: st.SearchStrategy[T], seed: int, size: int = _POOL) -> list[T]:
    """Return examples of a strategy."""
    drawn: list[T] = []

    @use_seed(seed)
    @settings(max_examples=size // _BATCH, phases=[Phase.generate], database=None)
    @given(st.lists(strategy, min_size=_BATCH, max_size=_BATCH))
    def collect(batch: list[T]) -> None:
        drawn.extend(batch)

    collect()
    return drawn


def sequences(
    strategy: st.SearchStrategy[T], seed: int, count: int = 25_000, length: int = 40
) -> Iterator[list[T]]:
    """Yield random sequences of such examples: by default, a million in all.

    To draw each one anew would take much longer than to use it.
    """
    examples, random = pool(strategy, seed), Random(seed)
    for _ in range(count):
        yield random.choices(examples, k=length)
