"""Receiving from a socket with a time limit: its MSG_WAITALL may return less."""

import socket


def receive_exactly(stream: socket.socket, size: int) -> bytes:
    """Receive so many bytes.

    Raises:
        TimeoutError: they do not come.
    """
    data = bytearray()
    while len(data) < size:
        piece = stream.recv(size - len(data))
        assert piece, f"closed after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)
