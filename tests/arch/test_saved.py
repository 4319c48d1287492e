"""The state of an object as plain values."""

from collections import deque

import pytest

from pyvmm.arch import saved
from pyvmm.arch.saved import StateError, Value

NAMES = ("number", "share", "is_on", "data", "pair", "fifo")


class Thing:
    """Something with a state."""

    def __init__(self) -> None:
        self.number = 5
        self.share = 0.5
        self.is_on = True
        self.data = bytearray(b"abc")
        self.pair = (1, False)
        self.fifo = deque([1, 2])


def test_a_state_is_plain_and_comes_back() -> None:
    """With the types that it had."""
    state = saved.save(Thing(), NAMES)
    assert state == {
        "number": 5, "share": 0.5, "is_on": True, "data": b"abc", "pair": [1, False], "fifo": [1, 2]
    }  # fmt: skip
    thing = Thing()
    thing.number, thing.data, thing.pair, thing.is_on = 0, bytearray(), (0, True), False
    saved.load(thing, NAMES[:-1], state)
    assert (thing.number, thing.pair, thing.is_on) == (5, (1, False), True)
    assert thing.data == bytearray(b"abc")
    assert isinstance(thing.data, bytearray)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("number", each) for each in (1 << 64, -1 << 64, "5", True, 5.0, None, [5])),
        *(("is_on", each) for each in (1, None, "True")),
        *(("share", each) for each in (float("nan"), float("inf"), "1", True)),
        *(("data", each) for each in ("abc", [1], None, 3)),
        *(("pair", each) for each in ([1], [1, 2], [1, False, 3], b"ab", {"a": 1})),
    ],
)
def test_another_type_is_refused(name: str, value: Value) -> None:
    """And the present value stays."""
    thing = Thing()
    with pytest.raises(StateError, match=name):
        saved.load(thing, (name,), {name: value})
    assert getattr(thing, name) == getattr(Thing(), name)


def test_what_is_missing_is_refused() -> None:
    """Whatever is looked for."""
    with pytest.raises(StateError):
        saved.load(Thing(), ("number",), {})
    for look in (saved.part, saved.items, saved.bits):
        with pytest.raises(StateError):
            look({"a": 1}, "a")
    for value in (-1, 8, True, "1"):
        with pytest.raises(StateError):
            saved.number({"a": value}, "a", 8)
    with pytest.raises(StateError):
        saved.items({"a": [1]}, "a", 2)
