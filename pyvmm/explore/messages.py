"""The messages between server and page; an export contains some of them, too."""

from collections.abc import Sequence

import msgspec

from pyvmm.explore.record import Chunk, Map
from pyvmm.vm.control.api import Status


class Choice(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="watch"):
    """A browser chooses an instance."""

    name: str


class Question(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="ask"):
    """A browser asks the instance."""

    id: int
    method: str
    params: dict[str, str | int | bool | None] = {}


class Instances(msgspec.Struct, tag_field="type", tag="instances"):
    """The instances that may be chosen."""

    instances: list[Status]


class Hello(msgspec.Struct, tag_field="type", tag="hello"):
    """The instance that was chosen; events from ``first`` to ``next`` follow, then new ones."""

    name: str
    gpis: Sequence[str]
    states: Sequence[str]
    first: int
    next: int


class Events(msgspec.Struct, tag_field="type", tag="events"):
    """Events in a row."""

    first: int
    times: list[int]
    pes: list[int]
    tooks: list[int]
    lines: str
    inside: list[int]


class NewMap(msgspec.Struct, tag_field="type", tag="map"):
    """The granules, and how many events were lost so far: on the way here, and to the browser.

    ``next`` is the number of the event that is sent next.
    """

    map: Map
    next: int
    lost: int
    skipped: int


class NewStatus(msgspec.Struct, tag_field="type", tag="status"):
    """The state of the instance; ``problem`` says why it cannot be watched."""

    status: Status | None
    problem: str


class Answer(msgspec.Struct, tag_field="type", tag="answer", omit_defaults=True):
    """The answer to a question."""

    id: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


def events_message(chunks: Sequence[Chunk]) -> Events:
    """Return a message with chunks that follow each other."""
    first, last = chunks[0], chunks[-1]
    return Events(
        first.first,
        [time for chunk in chunks for time in chunk.times],
        [pe for chunk in chunks for pe in chunk.pes],
        [took for chunk in chunks for took in chunk.tooks],
        "".join(chunk.lines for chunk in chunks),
        last.inside,
    )


class Recorded(msgspec.Struct, tag_field="type", tag="recorded"):
    """The answers in an export, by method."""

    answers: dict[str, msgspec.Raw]
