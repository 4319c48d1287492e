"""COSE_Sign1 and COSE_Key, against pycose: an implementation that shares no code with ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycose.keys.cosekey import CoseKey
from pycose.messages.sign1message import Sign1Message

from pyvmm.token.cbor import Malformed, Tag, decode, encode
from pyvmm.token.cose import Algorithm, Sign1, cose_key, parse_cose_key
from pyvmm.token.ecdsa import is_signature, public_point, sign
from tests.token.keys import key, signed
from tests.token.strategies import unless_malformed

BOTH = pytest.mark.parametrize("alg", Algorithm)


@BOTH
def test_pycose_takes_our_sign1_and_key(alg: Algorithm) -> None:
    """And verifies the signature."""
    private = key("someone", alg)
    value = decode(signed(private, b"payload", alg))
    assert isinstance(value, Tag)
    message = Sign1Message.from_cose_obj(value.value, allow_unknown_attributes=False)
    message.key = CoseKey.decode(cose_key(public_point(private)))
    assert message.payload == b"payload"
    assert message.verify_signature()


@BOTH
def test_we_take_pycose_s_sign1(alg: Algorithm) -> None:
    """And verify its signature, and no other."""
    private = key("someone", alg)
    scalar = private.private_numbers().private_value.to_bytes(alg.coordinate_size, "big")
    point = public_point(private)
    x, y = point[1 : 1 + alg.coordinate_size], point[1 + alg.coordinate_size :]
    message = Sign1Message(phdr={"ALG": alg.name}, uhdr={}, payload=b"payload")
    message.key = CoseKey.from_dict({1: 2, -1: alg.curve.value, -2: x, -3: y, -4: scalar})
    parsed = Sign1.parse(message.encode())
    assert parsed.algorithm() is alg
    assert is_signature(point, alg, parsed.to_be_signed, parsed.signature)
    assert not is_signature(point, alg, parsed.to_be_signed + b"x", parsed.signature)
    assert not is_signature(
        public_point(key("another", alg)), alg, parsed.to_be_signed, parsed.signature
    )


@BOTH
def test_signature_of_another_size_is_invalid(alg: Algorithm) -> None:
    """So are one for another curve, zeros, and values above the order."""
    private = key("someone", alg)
    point, good = public_point(private), sign(private, alg, b"data")
    assert is_signature(point, alg, b"data", good)
    for bad in (b"", good[:-1], good + b"\0", bytes(len(good)), b"\xff" * len(good)):
        assert not is_signature(point, alg, b"data", bad)
    for other in set(Algorithm) - {alg}:
        assert not is_signature(point, other, b"data", good)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda parts: encode(Tag(18, parts)),
            st.lists(st.one_of(st.binary(max_size=40), st.just({}), st.none()), max_size=5),
        ),
    )
)
def test_parse_accepts_or_rejects_any_bytes(data: bytes) -> None:
    """Accepted bytes are encoded identically."""
    parsed = unless_malformed(lambda: Sign1.parse(data, path="part"), "part")
    if parsed is not None:
        assert parsed.encode() == data
        unless_malformed(lambda: parsed.algorithm(path="part"), "part")


def test_pycose_s_key_id_is_tolerated_and_named() -> None:
    """In the unprotected header, where the library puts it; a strict reader rejects it."""
    private = key("someone")
    scalar = private.private_numbers().private_value.to_bytes(48, "big")
    point = public_point(private)
    message = Sign1Message(phdr={"ALG": "ES384"}, uhdr={"KID": b"cpak"}, payload=b"payload")
    message.key = CoseKey.from_dict({1: 2, -1: 2, -2: point[1:49], -3: point[49:], -4: scalar})
    encoded = message.encode()
    reported: list[Malformed] = []
    parsed = Sign1.parse(encoded, path="part", tolerate=reported.append)
    assert [error.path for error in reported] == ["part.unprotected"]
    assert is_signature(point, parsed.algorithm(), parsed.to_be_signed, parsed.signature)
    with pytest.raises(Malformed, match="although not signed"):
        Sign1.parse(encoded)


@given(
    st.one_of(
        st.binary(max_size=120),
        st.builds(
            encode,
            st.dictionaries(
                st.sampled_from((1, 2, 3, -1, -2, -3, -4)),
                st.one_of(st.integers(-40, 4), st.binary(min_size=32, max_size=48)),
            ),
        ),
    )
)
def test_parse_cose_key_accepts_or_rejects_any_bytes(data: bytes) -> None:
    """A point of the size of its curve, or one line."""
    point = unless_malformed(lambda: parse_cose_key(data, path="key"), "key")
    assert point is None or Algorithm.of_public(point)
