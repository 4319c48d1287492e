"""The agent's cryptography, run on this machine; the oracle is the package cryptography."""

import ctypes
import hashlib
import os
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from hypothesis import given, settings
from hypothesis.strategies import binary, integers

from tests.vm.agent_program import COMPILE, SOURCES

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
FILES = ("sha2.c", "aes.c", "p256.c")


@pytest.fixture(scope="module")
def crypto(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the agent's functions as a library."""
    library = tmp_path_factory.mktemp("crypto") / "crypto.so"
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    sources = [str(SOURCES / name) for name in FILES]
    subprocess.run([compiler, *COMPILE, "-fPIC", "-shared", *sources, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def bytes_32(number: int) -> bytes:
    """Return a number as a coordinate or a private key."""
    return number.to_bytes(32, "big")


def public_of(crypto: ctypes.CDLL, private: bytes) -> tuple[bytes, bytes]:
    """Return the public key that the agent computes."""
    x, y = ctypes.create_string_buffer(32), ctypes.create_string_buffer(32)
    crypto.p256_public(private, x, y)
    return x.raw, y.raw


def agree(crypto: ctypes.CDLL, private: bytes, x: bytes, y: bytes) -> bytes | None:
    """Return the shared secret that the agent computes."""
    shared = ctypes.create_string_buffer(32)
    return shared.raw if crypto.p256_agree(private, x, y, shared) & 1 else None


@given(data=binary(max_size=600))
def test_hashes(crypto: ctypes.CDLL, data: bytes) -> None:
    """SHA-256 and SHA-384."""
    for name, size in (("sha256", 32), ("sha384", 48)):
        digest = ctypes.create_string_buffer(size)
        getattr(crypto, name)(data, ctypes.c_size_t(len(data)), digest)
        assert digest.raw == hashlib.new(name, data).digest()


@settings(max_examples=20)
@given(key=binary(min_size=32, max_size=32), content=binary(min_size=32, max_size=32))
def test_key_wrap(crypto: ctypes.CDLL, key: bytes, content: bytes) -> None:
    """A wrapped key comes back; one that was changed does not."""
    out = ctypes.create_string_buffer(32)
    wrapped = bytearray(aes_key_wrap(key, content))
    assert crypto.aes_unwrap(key, bytes(wrapped), out) & 1
    assert out.raw == content
    wrapped[content[0] % len(wrapped)] ^= 1
    assert not crypto.aes_unwrap(key, bytes(wrapped), out) & 1


@settings(max_examples=50)
@given(
    key=binary(min_size=32, max_size=32),
    iv=binary(min_size=12, max_size=12),
    aad=binary(max_size=40),
    secret=binary(max_size=100),
    spoilt=integers(0, 10_000),
)
def test_gcm(
    crypto: ctypes.CDLL, key: bytes, iv: bytes, aad: bytes, secret: bytes, spoilt: int
) -> None:
    """What was encrypted comes back; what was changed gives zeros."""
    sealed = bytearray(AESGCM(key).encrypt(iv, secret, aad))

    def opened() -> bytes | None:
        data = ctypes.create_string_buffer(bytes(sealed[:-16]), len(secret) + 1)
        sizes = ctypes.c_size_t(len(aad)), ctypes.c_size_t(len(secret))
        tag = bytes(sealed[-16:])
        is_theirs = crypto.aes_gcm_open(key, iv, aad, sizes[0], data, sizes[1], tag) & 1
        if not is_theirs:
            assert data.raw == bytes(len(secret)) + b"\0"
        return data.raw[: len(secret)] if is_theirs else None

    assert opened() == secret
    sealed[spoilt % len(sealed)] ^= 1 << spoilt % 8
    assert opened() is None


@settings(max_examples=20)
@given(ours=integers(1, ORDER - 1), theirs=integers(1, ORDER - 1))
def test_diffie_hellman(crypto: ctypes.CDLL, ours: int, theirs: int) -> None:
    """The same public key and the same shared secret."""
    private, other = (ec.derive_private_key(number, ec.SECP256R1()) for number in (ours, theirs))
    numbers = private.public_key().public_numbers()
    x, y = public_of(crypto, bytes_32(ours))
    assert (x, y) == (bytes_32(numbers.x), bytes_32(numbers.y))
    shared = other.exchange(ec.ECDH(), private.public_key())
    assert agree(crypto, bytes_32(theirs), x, y) == shared


@pytest.mark.parametrize("scalar", [1, 2, 3, ORDER - 1, ORDER - 2, 2**255, 2**128 - 1])
def test_edges_of_the_scalars(crypto: ctypes.CDLL, scalar: int) -> None:
    """The formula has no exceptions: not for doubling, nor beside the neutral element."""
    numbers = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers()
    expected = (bytes_32(numbers.x), bytes_32(numbers.y))
    assert public_of(crypto, bytes_32(scalar)) == expected


def test_public_keys_that_are_none_are_refused(crypto: ctypes.CDLL) -> None:
    """A point beside the curve would reveal the private key; so would a coordinate beyond p."""
    private = os.urandom(32)
    x, y = public_of(crypto, bytes_32(7))
    assert agree(crypto, private, x, y) is not None
    for number in range(256):
        spoilt = bytes_32(int.from_bytes(y, "big") ^ 1 << number)
        assert agree(crypto, private, x, spoilt) is None
    assert agree(crypto, private, bytes(32), bytes(32)) is None
    assert agree(crypto, private, bytes_32(P), y) is None
    root = bytes_32(
        pow(0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B, (P + 1) // 4, P)
    )
    assert agree(crypto, private, bytes(32), root) is not None  # x = 0 is on the curve
    assert agree(crypto, private, bytes_32(P), root) is None  # and so is p, which is no coordinate
    assert agree(crypto, bytes_32(ORDER), x, y) is None  # the neutral element
