"""Strict CBOR: each value has exactly one encoding; anything else is rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.token.cbor import MAX_DEPTH, Malformed, Tag, Value, decode, describe, encode, ignore
from tests.token.strategies import unless_malformed, values


@given(values)
def test_decode_gives_what_was_encoded(value: Value) -> None:
    """For every value."""
    assert decode(encode(value), max_depth=64) == value


@given(st.binary(max_size=200))
def test_what_decodes_encodes_to_the_same_bytes(data: bytes) -> None:
    """Any bytes: refused in one line, or the one encoding of their value."""
    value = unless_malformed(lambda: [decode(data, path="here")], "here")
    assert value is None or encode(value[0]) == data


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("", "not strict CBOR"),
        ("1817", "byte 0: not the shortest encoding"),
        ("81190001", "byte 1: not the shortest encoding"),
        ("a1180102", "byte 1: not the shortest encoding"),
        ("d81200", "byte 0: not the shortest encoding"),
        ("5801ff", "byte 0: not the shortest encoding"),
        ("fb3ff8000000000000", "byte 0: not the shortest encoding"),
        ("0000", "1 bytes follow the value"),
        ("9f00ff", "indefinite length"),
        ("bf0001ff", "indefinite length"),
        ("5f4100ff", "indefinite length"),
        ("7f6161ff", "indefinite length"),
        ("a201000100", "Duplicate map key"),
        ("a1f400", "a key of type bool"),
        ("a1800000", "a key of type tuple"),
        ("a1f60000", "a key of type NoneType"),
        ("a1f93c0000", "a key of type float"),
        ("f7", "a value of type UndefinedType"),
        ("81e0", "[0]: a value of type CBORSimpleValue"),
        ("6180", "not strict CBOR"),
        ("8201", "premature end"),
        ("5bffffffffffffffff", "premature end"),
        ("9bffffffffffffffff", "not strict CBOR"),
        ("81" * (MAX_DEPTH + 1) + "00", "maximum container nesting depth"),
        ("c1" * (MAX_DEPTH + 1) + "00", "maximum container nesting depth"),
        ("00" * (64 * 1024 + 1), "65537 bytes; the limit is 65536"),
    ],
)
def test_decode_refuses(data: str, what: str) -> None:
    """Each liberty that CBOR allows, and each limit."""
    with pytest.raises(Malformed) as error:
        decode(bytes.fromhex(data))
    assert what in str(error.value)


VARIANTS: list[tuple[str, Value]] = [
    ("1817", 23),
    ("81190001", [1]),
    ("a1180102", {1: 2}),
    ("d81200", Tag(18, 0)),
    ("5801ff", b"\xff"),
    ("78026869", "hi"),
    ("b80100f6", {0: None}),
    ("9b000000000000000120", [-1]),
    ("fb3ff8000000000000", 1.5),
]


@pytest.mark.parametrize(("data", "value"), VARIANTS)
def test_a_variant_is_accepted_if_tolerated(data: str, value: Value) -> None:
    """Otherwise it is rejected; the variant's position is reported."""
    told: list[Malformed] = []
    assert decode(bytes.fromhex(data), path="here", tolerate=told.append) == value
    assert len(told) == 1
    with pytest.raises(Malformed) as refused:
        decode(bytes.fromhex(data), path="here")
    assert str(refused.value) == str(told[0])
    assert told[0].what.endswith("not the shortest encoding")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("181700", "1 bytes follow the value"),
        ("18171817", "2 bytes follow the value"),
        ("a20000180001", "Duplicate map key"),
        ("a261610078016101", "Duplicate map key"),
        ("a241000058010000", "Duplicate map key"),
        ("a200001b000000000000000001", "Duplicate map key"),
        ("a20100020000", "1 bytes follow the value"),
        ("a100bf00010203ff", "indefinite length"),
        ("5f5801ffff", "indefinite length"),
        ("a1f93c0000", "a key of type float"),
        ("a1f500", "a key of type bool"),
        ("6180", "not strict CBOR"),
        ("f8ff", "a value of type CBORSimpleValue"),
        ("f818", "not strict CBOR"),
        ("81" * (MAX_DEPTH + 1) + "00", "maximum container nesting depth"),
    ],
)
def test_ambiguous_encodings_are_never_tolerated(data: str, what: str) -> None:
    """A duplicate key in any encoding, bytes after the value, an indefinite length."""
    with pytest.raises(Malformed) as error:
        decode(bytes.fromhex(data), tolerate=ignore)
    assert what in str(error.value)


@given(st.binary(max_size=200))
def test_a_variant_means_what_its_strict_form_does(data: bytes) -> None:
    """Any bytes: the value has one strict encoding."""
    told: list[Malformed] = []
    value = unless_malformed(lambda: [decode(data, path="here", tolerate=told.append)], "here")
    if value is not None:
        again = encode(value[0])
        assert (again == data) == (not told)
        assert len(again) <= len(data)
        assert encode(decode(again)) == again


@pytest.mark.parametrize("tag", [0, 1, 2, 4, 5, 25, 28, 29, 30, 35, 36, 37, 256, 258, 260, 55799])
def test_tags_stay_tags(tag: int) -> None:
    """They never become a number, date, regular expression or reference."""
    for content in ("((", b"\x01", [1, 2], 0):
        assert decode(encode(Tag(tag, content))) == Tag(tag, content)


@given(values)
def test_describe_is_one_short_printable_line(value: Value) -> None:
    """Whatever the value: it goes to a terminal."""
    text = describe(value)
    assert text.isprintable()
    assert len(text) <= 80
