"""Untrusted JSON: every fault raises the same kind of error."""

import msgspec
import pytest

from pyvmm.vm.control.rpc import Request
from pyvmm.vm.json_text import decode


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b'{"method": "\xff"}',
        b"[]",
        b'{"jsonrpc": "2.0", "method": 1}',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x": ' + b'{"a":' * 100_000,
    ],
)
def test_what_is_not_of_the_kind_is_a_decode_error(text: bytes) -> None:
    """Not JSON, not UTF-8, another type, nested too deeply."""
    with pytest.raises(msgspec.DecodeError):
        decode(text, Request)


def test_what_is_of_the_kind_is_returned() -> None:
    """Fields of another version are ignored."""
    text = b'{"jsonrpc": "2.0", "method": "status", "more": [[]]}'
    assert decode(text, Request).method == "status"
