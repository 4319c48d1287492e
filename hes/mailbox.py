"""The server's end of the mailbox: any bytes in, one reply out.

Spec: TF-M, "RSE communication design", "embed" protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hes.errors import PsaError
from pyvmm.arch.psa import MAX_PAYLOAD, MAX_VECTORS, Control, PsaReply, PsaRequest, PsaStatus

_RESERVED: Final = ~(Control.IN_LEN.mask | Control.OUT_LEN.mask | Control.TYPE.mask)


@dataclass(frozen=True, slots=True)
class Call:
    """A well-formed request."""

    handle: int
    type: int
    inputs: tuple[bytes, ...]
    limits: tuple[int, ...]  # maximum size of each output in bytes


#: Performs a call and returns its outputs; raises PsaError.
Serve = Callable[[Call], tuple[bytes, ...]]


def answer(message: bytes, serve: Serve) -> bytes:
    """Return the reply to a message."""
    if len(message) < PsaRequest.size:
        return bytes(PsaReply.of(status=PsaStatus.PROGRAMMER_ERROR))
    head = PsaRequest(message[: PsaRequest.size])
    reply = PsaReply(bytes(head.data[: PsaReply.status.offset]).ljust(PsaReply.size, b"\0"))
    limits: tuple[int, ...] = ()
    try:
        call = parse(head, message[PsaRequest.size :])
        limits = call.limits
        outputs = serve(call)
        _check_outputs(outputs, limits)
    except PsaError as error:
        reply.status = error.status
        outputs = _text(error.text, limits)
    reply.out_size = (*map(len, outputs), *(0,) * (MAX_VECTORS - len(outputs)))
    return bytes(reply) + b"".join(outputs)


def parse(head: PsaRequest, payload: bytes) -> Call:
    """Return the call of a request.

    Raises: PsaError(PROGRAMMER_ERROR) if head and payload do not match.
    """
    control = Control(head.ctrl)
    num_in, num_out = control.IN_LEN, control.OUT_LEN
    if head.protocol_ver or control & _RESERVED or num_in + num_out > MAX_VECTORS:
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    sizes = head.io_size
    if any(sizes[num_in + num_out :]) or sum(sizes[:num_in]) != len(payload):
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    inputs, offset = [], 0
    for size in sizes[:num_in]:
        inputs.append(payload[offset : offset + size])
        offset += size
    return Call(head.handle, control.TYPE, tuple(inputs), sizes[num_in : num_in + num_out])


def _check_outputs(outputs: tuple[bytes, ...], limits: tuple[int, ...]) -> None:
    if len(outputs) > len(limits):
        raise PsaError(PsaStatus.PROGRAMMER_ERROR)
    fits = all(len(output) <= limit for output, limit in zip(outputs, limits, strict=False))
    if not fits or sum(map(len, outputs)) > MAX_PAYLOAD:
        raise PsaError(PsaStatus.BUFFER_TOO_SMALL)


def _text(text: str, limits: tuple[int, ...]) -> tuple[bytes, ...]:
    """Return a line of text, cut to the caller's limit."""
    data = text.encode(errors="surrogateescape")[: min(limits[0], MAX_PAYLOAD)] if limits else b""
    return (data,) if data else ()
