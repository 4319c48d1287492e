"""The attestation services of EL3: the realm attestation key, the platform token, virtual HUKs.

The HES provides them.  Results that do not fit in registers go through the granule that EL3 and the
RMM share.
Spec: TF-A, "RMM-EL3 communication interface", RMM_ATTEST_GET_REALM_KEY, _GET_PLAT_TOKEN,
RMM_EL3_TOKEN_SIGN; Islet, RMM_ISLET_GET_VHUK.
"""

import struct
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from monitor.hes import Hes, HesRefused
from monitor.token_sign import TokenSigner
from pyvmm.arch.bits import MASK64
from pyvmm.arch.islet import VhukId
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.psa import PsaStatus
from pyvmm.arch.rmmd import (
    CHALLENGE_SIZES,
    CURVE_P384,
    RmmdError,
    RmmdFid,
    TokenSignOp,
    TokenSignRequest,
    TokenSignResponse,
)

Answer = tuple[int, ...]
_NUM_ARGS: Final = 4
_WORDS: Final = struct.Struct("<4Q")


def refuse(error: RmmdError) -> Answer:
    """Return an error as the RMM reads it from x0."""
    return (error & MASK64,)


class AttestationServices:
    """Answers the RMM's attestation calls; keeps the rest of a token between calls."""

    def __init__(
        self, realm: PhysicalMemory, shared_pa: int, hes: Hes, *, signs_at_once: bool = False
    ) -> None:
        self._memory = realm
        self._shared_pa = shared_pa
        self._hes = hes
        self._lock = Lock()
        self._rest = b""
        self._signer = TokenSigner(hes.sign_sha384, signs_at_once=signs_at_once)
        self._calls: dict[int, Callable[[int, int, int, int], Answer]] = {
            RmmdFid.ATTEST_GET_REALM_KEY: self._get_realm_key,
            RmmdFid.ATTEST_GET_PLAT_TOKEN: self._get_platform_token,
            RmmdFid.EL3_TOKEN_SIGN: self._token_sign,
            RmmdFid.ISLET_GET_VHUK: self._get_vhuk,
        }

    @property
    def services(self) -> dict[int, Callable[[int, int, Sequence[int]], Answer]]:
        """The calls that exist; each takes the PE, the function id and x0.. of the RMM."""
        return dict.fromkeys(self._calls, self._answer)

    def _answer(self, _pe: int, fid: int, args: Sequence[int]) -> Answer:
        x1, x2, x3, x4 = (*args[1 : _NUM_ARGS + 1], *(0,) * _NUM_ARGS)[:_NUM_ARGS]
        try:
            return self._calls[fid](x1, x2, x3, x4)
        except HesRefused as refusal:
            is_input = refusal.status is PsaStatus.INVALID_ARGUMENT
            return refuse(RmmdError.INVAL if is_input else RmmdError.UNK)
        except OSError:
            return refuse(RmmdError.UNK)

    def _get_realm_key(self, buf_pa: int, buf_size: int, curve: int, _x4: int) -> Answer:
        """Put the realm attestation key into the shared buffer; x1 is its size."""
        error = self._check_buffer(buf_pa, buf_size)
        if error is not None:
            return refuse(error)
        if curve != CURVE_P384:
            return refuse(RmmdError.INVAL)
        return self._give(buf_pa, buf_size, self._hes.realm_key())

    def _get_platform_token(
        self, buf_pa: int, buf_size: int, challenge_size: int, _x4: int
    ) -> Answer:
        """Put the next part of the platform token into the shared buffer.

        A call with a challenge (at the start of the buffer) begins a new token; a call without
        one continues.  x1 is the size of this part, x2 the size of the rest.
        """
        error = self._check_buffer(buf_pa, buf_size)
        if error is not None:
            return refuse(error)
        with self._lock:
            if challenge_size in CHALLENGE_SIZES and challenge_size <= buf_size:
                self._rest = b""
                challenge = self._memory.read(buf_pa, challenge_size)
                self._rest = self._hes.platform_token(challenge)
            elif challenge_size or not self._rest:
                return refuse(RmmdError.INVAL)
            part, self._rest = self._rest[:buf_size], self._rest[buf_size:]
            self._memory.write(buf_pa, part)
            return (RmmdError.OK, len(part), len(self._rest))

    def _token_sign(self, opcode: int, buf_pa: int, buf_size: int, curve: int) -> Answer:
        """Have the HES sign a realm token, or return the public key for it."""
        error = self._check_buffer(buf_pa, buf_size)
        if error is not None:
            return refuse(error)
        match TokenSignOp(opcode):
            case TokenSignOp.PUSH_REQUEST if buf_size >= TokenSignRequest.size:
                request = TokenSignRequest(self._memory.read(buf_pa, TokenSignRequest.size))
                return refuse(self._signer.push(request))
            case TokenSignOp.PULL_RESPONSE if buf_size >= TokenSignResponse.size:
                return self._pull(buf_pa)
            case TokenSignOp.GET_RAK_PUBLIC if curve == CURVE_P384:
                return self._give(buf_pa, buf_size, self._hes.realm_public_key())
            case _:
                return refuse(RmmdError.INVAL)

    def _pull(self, buf_pa: int) -> Answer:
        response = self._signer.pull()
        if response is None:
            return refuse(RmmdError.AGAIN)
        self._memory.write(buf_pa, bytes(response))
        return (RmmdError.OK,)

    def _get_vhuk(self, which: int, *_: int) -> Answer:
        """Return a virtual HUK in x1 to x4."""
        if which not in list(VhukId):
            return refuse(RmmdError.INVAL)
        return (RmmdError.OK, *_WORDS.unpack(self._hes.vhuk(VhukId(which))))

    def _give(self, buf_pa: int, buf_size: int, data: bytes) -> Answer:
        if len(data) > buf_size:
            return refuse(RmmdError.INVAL)
        self._memory.write(buf_pa, data)
        return (RmmdError.OK, len(data))

    def _check_buffer(self, pa: int, size: int) -> RmmdError | None:
        """Return an error unless the buffer lies in the shared granule."""
        end = self._shared_pa + GRANULE_SIZE
        if not self._shared_pa <= pa < end:
            return RmmdError.BAD_ADDR
        return None if 0 < size <= end - pa else RmmdError.INVAL
