"""Read a token given as bytes or as text: hexadecimal or base64, with or without PEM lines."""

import re
from base64 import b64decode
from typing import Final

from pyvmm.token.cbor import MAX_SIZE, Malformed

#: Text twice as long as a token, with some room for line ends.
MAX_INPUT: Final = 3 * MAX_SIZE

_PEM: Final = re.compile(rb"\s*-----BEGIN [^\n-]*-----(.*)-----END [^\n-]*-----\s*", re.DOTALL)
_HEX: Final = re.compile(rb"(?:0[xX])?((?:[0-9a-fA-F]{2})+)")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+")
_TAG: Final = 6  # CBOR major type


def token_bytes(data: bytes) -> bytes:
    """Return a token as bytes.

    Raises:
        Malformed: the input is neither tagged CBOR nor text that encodes it.
    """
    if len(data) > MAX_INPUT:
        raise Malformed("token", f"the input exceeds the limit of {MAX_INPUT} bytes")
    if not data.strip():
        raise Malformed("token", "empty input")
    if data[0] >> 5 == _TAG:
        return data
    token = _from_text(data)
    if not token or token[0] >> 5 != _TAG:
        raise Malformed(
            "token", "an unknown format: not tagged CBOR, raw or in hexadecimal or base64"
        )
    return token


def _from_text(data: bytes) -> bytes | None:
    pem = _PEM.fullmatch(data)
    text = b"".join((pem[1] if pem else data).split())
    if found := _HEX.fullmatch(text):
        return bytes.fromhex(found[1].decode())
    standard = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    if not _BASE64.fullmatch(standard) or len(standard) % 4 == 1:
        return None
    return b64decode(standard + b"=" * (-len(standard) % 4))
