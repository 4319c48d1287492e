"""EL3's calls of the HES: PSA requests and replies through the mailbox.

Spec: TF-M, "RSE communication design", "embed" protocol; docs/hes.md.
"""

import hashlib
from dataclasses import dataclass
from itertools import count
from typing import Final

from monitor.protocols import Mailbox
from pyvmm.arch.bits import OpenEnum
from pyvmm.arch.events import EventStream, HesCall
from pyvmm.arch.islet import VhukId
from pyvmm.arch.psa import (
    ECC_FAMILY_SECP_R1,
    MAX_PAYLOAD,
    MAX_VECTORS,
    Control,
    DelegatedAttestation,
    ExtendIn,
    MeasuredBoot,
    PsaHandle,
    PsaHash,
    PsaReply,
    PsaRequest,
    PsaStatus,
    Vhuk,
)

RAK_BITS: Final = 384
SCALAR_SIZE: Final = 48
POINT_SIZE: Final = 97
SIGNATURE_SIZE: Final = 96
VHUK_SIZE: Final = 32


class HesRefused(OSError):
    """The HES answered a call with a status other than SUCCESS."""

    def __init__(self, status: PsaStatus) -> None:
        super().__init__(f"the HES answered {status.name}")
        self.status = status


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """An image that EL3 measures before it enters the RMM: the bytes and their description."""

    slot: int
    sw_type: str
    version: str
    signer_id: bytes
    data: bytes


class Hes:
    """The HES behind its mailbox.

    Raises: OSError, from every method, if the HES has ended, refuses (HesRefused) or sends an
    invalid reply.
    """

    def __init__(self, mailbox: Mailbox, events: EventStream | None = None) -> None:
        self._mailbox = mailbox
        self._events = events or EventStream()
        self._numbers = count()

    def measure(self, image: FirmwareImage) -> None:
        """Extend the slot of an image with its hash, and lock the slot."""
        sw_type = image.sw_type.encode()
        what = ExtendIn.of(
            index=image.slot,
            lock=1,
            algorithm=PsaHash.SHA_256,
            sw_type=sw_type,
            sw_type_size=len(sw_type),
        )
        digest = hashlib.sha256(image.data).digest()
        self._call(
            PsaHandle.MEASURED_BOOT,
            MeasuredBoot.EXTEND,
            bytes(what),
            image.signer_id,
            image.version.encode(),
            digest,
        )

    def realm_key(self) -> bytes:
        """Return the private scalar of the realm attestation key."""
        return self._fetch(
            PsaHandle.DELEGATED_ATTESTATION,
            DelegatedAttestation.GET_KEY,
            bytes([ECC_FAMILY_SECP_R1]),
            RAK_BITS.to_bytes(4, "little"),
            PsaHash.SHA_256.to_bytes(4, "little"),
            size=SCALAR_SIZE,
        )

    def realm_public_key(self) -> bytes:
        """Return the public part of the realm attestation key, a SEC1 point."""
        return self._fetch(
            PsaHandle.DELEGATED_ATTESTATION, DelegatedAttestation.GET_PUBLIC_KEY, size=POINT_SIZE
        )

    def platform_token(self, challenge: bytes) -> bytes:
        """Return the platform token that vouches for the realm attestation key with this hash."""
        return self._call(
            PsaHandle.DELEGATED_ATTESTATION,
            DelegatedAttestation.GET_TOKEN,
            challenge,
            max_size=MAX_PAYLOAD,
        )

    def sign_sha384(self, digest: bytes) -> bytes:
        """Have a SHA-384 hash signed with the realm attestation key; return r || s."""
        return self._fetch(
            PsaHandle.DELEGATED_ATTESTATION,
            DelegatedAttestation.SIGN_HASH,
            PsaHash.SHA_384.to_bytes(4, "little"),
            digest,
            size=SIGNATURE_SIZE,
        )

    def vhuk(self, which: VhukId) -> bytes:
        """Return a virtual HUK."""
        return self._fetch(PsaHandle.VHUK, Vhuk.GET, bytes([which]), size=VHUK_SIZE)

    def _fetch(self, handle: PsaHandle, call: OpenEnum, *inputs: bytes, size: int) -> bytes:
        """Perform a call whose output has exactly ``size`` bytes."""
        output = self._call(handle, call, *inputs, max_size=size)
        if len(output) != size:
            raise OSError("the HES's output is too short")
        return output

    def _call(self, handle: PsaHandle, call: OpenEnum, *inputs: bytes, max_size: int = 0) -> bytes:
        """Perform a call with at most one output of at most ``max_size`` bytes."""
        status = ""
        try:
            output = self._exchange(handle, call, inputs, max_size)
            status = PsaStatus.SUCCESS.name
        except HesRefused as refusal:
            status = refusal.status.name
            raise
        finally:
            if self._events.listener is not None:
                self._events.listener(HesCall(f"{handle.name}.{call.name}", status))
        return output

    def _exchange(
        self, handle: PsaHandle, call: OpenEnum, inputs: tuple[bytes, ...], max_size: int
    ) -> bytes:
        sizes = [*map(len, inputs), max_size]
        request = PsaRequest.of(
            seq_num=next(self._numbers) & 0xFF,
            handle=handle,
            ctrl=Control.of(TYPE=call, IN_LEN=len(inputs), OUT_LEN=1 if max_size else 0),
            io_size=(*sizes, *(0,) * MAX_VECTORS)[:MAX_VECTORS],
        )
        reply = self._mailbox.call(bytes(request) + b"".join(inputs))
        return _output(bytes(request), reply, max_size)


def _output(request: bytes, reply: bytes, max_size: int) -> bytes:
    """Return the output in the reply to a request.

    Raises: HesRefused; OSError if it is not a reply to the request.
    """
    if len(reply) < PsaReply.size or reply[: PsaReply.status.offset] != request[:4]:
        raise OSError("the HES's reply does not match the request")
    head, output = PsaReply(reply[: PsaReply.size]), reply[PsaReply.size :]
    status = PsaStatus(head.status)
    if status is not PsaStatus.SUCCESS:
        raise HesRefused(status)
    if head.out_size != (len(output), 0, 0, 0) or len(output) > max_size:
        raise OSError("the HES's output is too long")
    return output
