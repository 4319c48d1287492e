"""What of the HES reads bytes of others: the mailbox, provisioning bundles and its own file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hes import provisioning
from hes.errors import PsaError
from hes.otp import Otp, decode_otp, encode_otp
from pyvmm.arch.psa import (
    MAX_PAYLOAD,
    MAX_VECTORS,
    DelegatedAttestation,
    ExtendIn,
    HesService,
    MeasuredBoot,
    PsaHandle,
    PsaHash,
    PsaReply,
    Vhuk,
)
from pyvmm.token import ecdsa
from pyvmm.token.cbor import Malformed
from pyvmm.token.cose import Algorithm, Sign1
from tests.hes.rig import Rig, parse_reply, request

CALLS = (
    *((PsaHandle.MEASURED_BOOT, call) for call in MeasuredBoot),
    *((PsaHandle.DELEGATED_ATTESTATION, call) for call in DelegatedAttestation),
    *((PsaHandle.VHUK, call) for call in Vhuk),
    *((PsaHandle.HES, call) for call in HesService),
)
SIZES = (0, 1, 3, 4, 32, 44, 48, 64)


def mailbox(place: Path) -> Callable[[bytes], None]:
    """Return a target that sends a message as it is, or makes a call of it, by its first byte."""
    os.fsync = lambda fd: None  # noqa: ARG005  the disk is not what we try here
    directory = place / "hes"
    directory.mkdir()
    rig = Rig(directory)

    def target(data: bytes) -> None:
        if len(rig.cycle.boot.events) > 200:
            rig.reset()
        reply = rig.send(data[1:] if not data or data[0] & 1 else _call_of(data[1:]))
        parse_reply(reply)
        assert len(reply) <= PsaReply.size + MAX_PAYLOAD

    return target


def _call_of(data: bytes) -> bytes:
    """Take a call, the sizes of its inputs and their bytes from the input."""
    head, rest = data[:4].ljust(4, b"\0"), data[4:]
    handle, call = CALLS[head[0] % len(CALLS)]
    inputs = []
    for byte in head[1 : 1 + head[3] % (MAX_VECTORS + 1)]:
        size = SIZES[byte % len(SIZES)]
        inputs.append(rest[:size].ljust(size, b"\0"))
        rest = rest[size:]
    rooms = (MAX_PAYLOAD,) * (MAX_VECTORS - len(inputs))
    return request(handle, call, tuple(inputs), rooms)


def mailbox_seeds() -> list[bytes]:
    """Return a call of each kind."""
    what = ExtendIn.of(index=14, algorithm=PsaHash.SHA_256, sw_type=b"RMM", sw_type_size=3)
    extend = (bytes(what), bytes(32), b"1.0", bytes(32))
    messages = [
        request(PsaHandle.MEASURED_BOOT, MeasuredBoot.EXTEND, extend, ()),
        request(PsaHandle.HES, HesService.POWER_ON, (b"g1",), (200,)),
        *(request(*call, (bytes(4),), (100,) * (MAX_VECTORS - 1)) for call in CALLS),
    ]
    return [b"\1" + message for message in messages]


def bundle() -> Callable[[bytes], None]:
    """Return a target that takes the input for a bundle, and for what a maker has signed."""
    states = [Otp()]
    for taken in provisioning.development_bundles():
        states.append(provisioning.provision(states[-1], taken))
    header = Sign1.parse(provisioning.development_bundles()[0]).protected

    def target(data: bytes) -> None:
        signed = Sign1(header, data, bytes(96)).encode()
        for otp in states:
            for given in (data, signed):
                with suppress(PsaError):
                    provisioning.provision(otp, given)

    ecdsa.is_signature = _is_point  # or nothing behind it is reached
    return target


def _is_point(public: bytes, alg: Algorithm, data: bytes, signature: bytes) -> bool:
    del alg, data, signature
    ecdsa.load_public(public)
    return True


def bundle_seeds() -> list[bytes]:
    """Return bundles and what is signed in them."""
    bundles = provisioning.development_bundles()
    return [*bundles, *(Sign1.parse(one).payload for one in bundles)]


def otp(data: bytes) -> None:
    """Take the input for the file, and for what its hash is right for."""
    for given in (data, hashlib.sha256(data).digest() + data):
        try:
            found = decode_otp(given)
        except Malformed:
            continue
        assert encode_otp(found) == given


def otp_seeds() -> list[bytes]:
    """Return an empty content and a full one, without its hash."""
    full = Otp()
    for taken in provisioning.development_bundles():
        full = provisioning.provision(full, taken)
    return [encode_otp(one)[32:] for one in (Otp(), full)]
