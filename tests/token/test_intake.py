"""A token in every input form."""

from base64 import b64encode, encodebytes, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.token.cbor import MAX_SIZE, Malformed
from pyvmm.token.generations import Generation
from pyvmm.token.intake import MAX_INPUT, token_bytes
from tests.token.draft import Draft

TOKEN = Draft.good(Generation.G1).encode()
HEX = TOKEN.hex().encode()


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        HEX,
        HEX.upper(),
        b"0x" + HEX + b"\n",
        b"\n".join(HEX[start : start + 64] for start in range(0, len(HEX), 64)) + b"\r\n",
        b64encode(TOKEN),
        b64encode(TOKEN).rstrip(b"="),
        urlsafe_b64encode(TOKEN),
        urlsafe_b64encode(TOKEN).rstrip(b"="),
        b"  " + encodebytes(TOKEN),
        b"-----BEGIN CCA TOKEN-----\n" + encodebytes(TOKEN) + b"-----END CCA TOKEN-----\n",
        b"-----BEGIN X-----\r\n" + HEX + b"\r\n-----END X-----",
    ],
)
def test_form_is_recognised(text: bytes) -> None:
    """Raw, hexadecimal, base64 in both alphabets, on several lines, between PEM lines."""
    assert token_bytes(text) == TOKEN


@given(st.binary(min_size=1, max_size=300))
def test_every_form_of_any_tagged_bytes_is_recognised(data: bytes) -> None:
    """If they start like a token: then their base64 is never hexadecimal."""
    token = b"\xd9\x01" + data
    for text in (token, token.hex().encode(), b64encode(token), urlsafe_b64encode(token)):
        assert token_bytes(text) == token


@pytest.mark.parametrize(
    "data",
    [b"", b"\n \n", b"abc*", b"\x00\x01", b"\xa1\x00\x00", b"=", b"A", b"d9018",
     b"-----BEGIN X-----", "2QGP\N{SNOWMAN}".encode()],
)  # fmt: skip
def test_other_input_is_malformed(data: bytes) -> None:
    """In one line."""
    with pytest.raises(Malformed, match=r"^token: "):
        token_bytes(data)


def test_input_has_a_limit() -> None:
    """Twice the largest token and some line ends fit; more does not."""
    largest = b"d9" * MAX_SIZE
    assert len(token_bytes(largest)) == MAX_SIZE
    with pytest.raises(Malformed, match=f"the limit of {MAX_INPUT} bytes"):
        token_bytes(b"\xd9" * (MAX_INPUT + 1))


@given(st.binary(max_size=200))
def test_any_input_is_taken_or_malformed(data: bytes) -> None:
    """And raises nothing else."""
    try:
        token_bytes(data)
    except Malformed as error:
        assert error.path == "token"  # noqa: PT017  taking it is fine too
