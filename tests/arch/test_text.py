"""Untrusted text is shown visibly and harmlessly; bytes that are not UTF-8 are escaped."""

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import defect, is_unicode, printable, printable_json

#: A terminal's sequences with 7 and 8 bits, line ends, marks of direction, an invisible tag.
HOSTILE = "\x1b]0;t\x07\x9b2J\r\n\x7f\u2028\u202e\u2066\u200b\ufeff\U000e0041"
SEEN = r"\x1b]0;t\x07\x9b2J\r\n\x7f\u2028\u202e\u2066\u200b\ufeff\U000e0041"


def is_safe(text: str) -> bool:
    """Return whether every character is visible."""
    return not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in text)


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 日本語", r"back\slash"])
def test_what_can_be_seen_stays(text: str) -> None:
    """In any script."""
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SEEN),
        (os.fsdecode(b"caf\xe9/\xc3\xa9"), "caf\\xe9/\u00e9"),
        ("half a pair: \ud800", r"half a pair: \ud800"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    """As Python escapes it."""
    assert printable(text) == shown
    assert str(UserError(text)) == shown


@given(st.one_of(st.text(), st.text(st.characters(categories=["L", "Cs"]))))
def test_nothing_else_is_left(text: str) -> None:
    """For any text, even one that cannot be encoded."""
    assert is_safe(printable(text))
    assert is_unicode(printable(text))


@given(st.binary())
def test_any_bytes_can_be_printed(data: bytes) -> None:
    """Whatever they are."""
    assert is_unicode(printable(os.fsdecode(data)))


@given(st.text())
def test_json_means_the_same(text: str) -> None:
    """And its line ends stay."""
    told = printable_json(json.dumps({"a": text}, ensure_ascii=False, indent=1))
    assert is_safe(told.replace("\n", ""))
    assert told.count("\n") == 2
    assert json.loads(told) == {"a": text}


def test_a_traceback_keeps_its_lines() -> None:
    """But no other control characters."""
    text = ""
    try:
        getattr("", HOSTILE)
    except AttributeError:
        text = defect()
    assert text.startswith("Traceback")
    assert all(map(is_safe, text.splitlines()))
