"""The first event in which two records differ."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from pyvmm.vm.record.file import Reader
from pyvmm.vm.record.header import Header
from pyvmm.vm.record.items import Kind, describe, kind_of

#: Events that both runs have, shown before the first one in which they differ.
CONTEXT: Final = 3
_NONE: Final = "(the run has ended)"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs differ."""

    number: int  # of the event, from 0 on
    before: tuple[str, ...]  # the last events in which they do not
    first: str
    second: str


def first_difference(one: Reader, other: Reader) -> Difference | None:
    """Compare the events of two records; None if all are the same.

    Raises:
        UserError: a record is damaged.
    """
    before: deque[bytes] = deque(maxlen=CONTEXT)
    for number, (ours, theirs) in enumerate(zip_longest(_events(one), _events(other))):
        if ours != theirs:
            shown = (describe(each) if each else _NONE for each in (ours, theirs))
            return Difference(number, tuple(map(describe, before)), *shown)
        before.append(ours)
    return None


def _events(reader: Reader) -> Iterator[bytes]:
    """Yield the events, which follow from the guest and its input."""
    items = reader.items()
    Header.decode(next(items, b""), reader.path)
    return (item for item in items if kind_of(item) == Kind.EVENT)
