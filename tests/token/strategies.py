"""Hypothesis strategies: CBOR values, and bytes damaged in transit."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from pyvmm.token.cbor import Key, Malformed, Tag, Value

T = TypeVar("T")

_BIG = (1 << 64) - 1


def unless_malformed(read: Callable[[], T], path: str) -> T | None:
    """Return what `read` returns; None if it fails with one line that starts with a path."""
    try:
        return read()
    except Malformed as error:
        text = str(error)
    assert text.startswith(path)
    assert "\n" not in text
    return None


keys: st.SearchStrategy[Key] = st.one_of(
    st.integers(-_BIG - 1, _BIG), st.text(max_size=8), st.binary(max_size=8)
)
_leaves: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-_BIG - 1, _BIG),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=70),
)


def _containers(inner: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Tag, st.integers(0, _BIG), inner),
    )


#: Values that a token may hold, nested a few levels.
values: st.SearchStrategy[Value] = st.recursive(_leaves, _containers, max_leaves=12)


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with something cut out, put in or overwritten."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + draw(st.sampled_from((0, 1, 4, 64))))))
    return data[:start] + draw(st.binary(max_size=8)) + data[end:]
