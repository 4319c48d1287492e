"""Text with bytes in it that are not UTF-8."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import is_unicode, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9", "caf\u00e9"),
        (os.fsdecode(b"caf\xe9/\xc3\xa9"), r"caf\xe9/\u00e9".replace(r"\u00e9", "\u00e9")),
        ("half a pair: \ud800", r"half a pair: \ud800"),
    ],
)
def test_bytes_are_written_out(text: str, shown: str) -> None:
    """And nothing else; so is what stands for no byte."""
    assert printable(text) == shown
    assert str(UserError(text)) == shown
    assert is_unicode(text) == (text == shown)


@given(st.binary())
def test_any_bytes_can_be_printed(data: bytes) -> None:
    """Whatever they are."""
    assert is_unicode(printable(os.fsdecode(data)))


@given(st.text(st.characters(categories=["L", "Cs"])))
def test_any_text_can_be_printed(text: str) -> None:
    """Whatever Python can hold."""
    assert is_unicode(printable(text))
