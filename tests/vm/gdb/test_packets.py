"""The framing: packets survive any segmentation, and noise does no harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.vm.gdb.packets import MAX_PACKET, Decoder, PacketError, Signal, encode, unescape

PAYLOADS = st.lists(st.binary(max_size=60), max_size=6)


@given(PAYLOADS, st.lists(st.integers(1, 30)))
def test_packets_arrive_whole(payloads: list[bytes], cuts: list[int]) -> None:
    """Every byte value survives, in pieces of any size."""
    stream = b"+".join(map(encode, payloads))
    decoder, found = Decoder(), list[bytes | Signal]()
    for cut in [*cuts, len(stream)]:
        found += decoder.feed(stream[:cut])
        stream = stream[cut:]
    assert [item for item in found if isinstance(item, bytes)] == payloads


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_noise_never_raises(pieces: list[bytes]) -> None:
    """Any bytes in any pieces raise no unexpected error."""
    decoder = Decoder()
    for piece in pieces:
        for item in decoder.feed(piece):
            assert isinstance(item, bytes | Signal)


def test_a_break_counts_between_packets_only() -> None:
    """Inside a packet the byte is data."""
    assert list(Decoder().feed(b"\x03" + encode(b"X0,1:\x03") + b"\x03")) == [
        Signal.BREAK,
        b"X0,1:\x03",
        Signal.BREAK,
    ]


@pytest.mark.parametrize("packet", [b"$g#00", b"$g#zz", b"$#01"])
def test_a_wrong_checksum_is_told(packet: bytes) -> None:
    """The following packet is decoded."""
    assert list(Decoder().feed(packet + b"-" + encode(b"g"))) == [
        Signal.BROKEN,
        Signal.NACK,
        b"g",
    ]


def test_a_packet_without_end_ends_the_connection() -> None:
    """The limit is the announced size, whether or not the packet's end has arrived."""
    for end in (b"", b"#00"):
        with pytest.raises(PacketError):
            list(Decoder().feed(b"$" + bytes(MAX_PACKET + 4) + end))
    assert list(Decoder().feed(encode(bytes(MAX_PACKET - 4)))) == [bytes(MAX_PACKET - 4)]


def test_an_escape_at_the_end_is_nothing() -> None:
    """An escape without a following byte stands for nothing."""
    assert unescape(b"ab}") == b"ab"
