"""EL3's services for attestation, which the RMM calls through the shared page.

Spec: TF-A, "RMM-EL3 communication interface", RMM_ATTEST_*, RMM_EL3_FEATURES, RMM_EL3_TOKEN_SIGN;
Islet, RMM_ISLET_GET_VHUK.
"""

from struct import Struct
from threading import Lock
from typing import Final

from pyvmm.arch.islet import VhukId
from pyvmm.arch.machine import PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmmd import (
    CURVE_P384,
    FEATURE_TOKEN_SIGN,
    HASH_SHA384,
    RmmdError,
    RmmdFid,
    TokenSignOp,
    TokenSignRequest,
    TokenSignResponse,
)
from rmm.protocols import El3

MAX_PLATFORM_TOKEN: Final = 4096  # bytes
_KEY: Final = Struct("<4Q")  # 32 bytes in four registers


class El3Refused(Exception):
    """EL3 refused a call; ``error`` is the reason."""

    def __init__(self, fid: RmmdFid, error: RmmdError) -> None:
        super().__init__(f"{fid.name}: {error.name}")
        self.error = error


class El3Services:
    """EL3's attestation services; every method raises ``El3Refused``.

    Concurrency: one call at a time uses the shared page.
    """

    def __init__(self, el3: El3, memory: PhysicalMemory, shared_pa: int) -> None:
        self._el3 = el3
        self._memory = memory
        self._shared_pa = shared_pa
        self._lock = Lock()

    def signs_tokens(self, pe: int) -> bool:
        """Check whether EL3 signs tokens with a key that it does not export."""
        return bool(self._call(pe, RmmdFid.EL3_FEATURES, 0)[0] & FEATURE_TOKEN_SIGN)

    def rak_public(self, pe: int) -> bytes:
        """Return the public key that EL3 signs realm tokens with, a SEC1 point."""
        with self._lock:
            size, *_ = self._token_sign(pe, TokenSignOp.GET_RAK_PUBLIC, GRANULE_SIZE)
            return self._memory.read(self._shared_pa, min(size, GRANULE_SIZE))

    def realm_key(self, pe: int) -> bytes:
        """Return the private realm attestation key, if EL3 exports it."""
        with self._lock:
            fid = RmmdFid.ATTEST_GET_REALM_KEY
            size, *_ = self._call(pe, fid, self._shared_pa, GRANULE_SIZE, CURVE_P384)
            key = self._memory.read(self._shared_pa, min(size, GRANULE_SIZE))
            self._memory.zero(self._shared_pa, GRANULE_SIZE)
            return key

    def platform_token(self, pe: int, challenge: bytes) -> bytes:
        """Return the platform token that binds a challenge; EL3 sends it in parts."""
        fid, args = RmmdFid.ATTEST_GET_PLAT_TOKEN, (self._shared_pa, GRANULE_SIZE)
        with self._lock:
            self._memory.write(self._shared_pa, challenge)
            size, remaining, *_ = self._call(pe, fid, *args, len(challenge))
            token = self._memory.read(self._shared_pa, min(size, GRANULE_SIZE))
            while remaining and size and len(token) < MAX_PLATFORM_TOKEN:
                size, remaining, *_ = self._call(pe, fid, *args, 0)
                token += self._memory.read(self._shared_pa, min(size, GRANULE_SIZE))
        if remaining or len(token) > MAX_PLATFORM_TOKEN:
            raise El3Refused(fid, RmmdError.INVAL)
        return token

    def push(self, pe: int, rec: int, ticket: int, digest: bytes) -> None:
        """Request the signature of a SHA-384 digest; the response repeats REC and ticket."""
        request = TokenSignRequest.of(
            sig_alg=CURVE_P384, rec=rec, ticket=ticket, hash_alg=HASH_SHA384, hash=digest
        )
        with self._lock:
            self._memory.write(self._shared_pa, request.data)
            self._token_sign(pe, TokenSignOp.PUSH_REQUEST, request.size)

    def pull(self, pe: int) -> TokenSignResponse:
        """Return a completed signature, of any request."""
        with self._lock:
            size = TokenSignResponse.size
            self._token_sign(pe, TokenSignOp.PULL_RESPONSE, size)
            return TokenSignResponse(self._memory.read(self._shared_pa, size))

    def vhuk(self, pe: int, which: VhukId) -> bytes:
        """Return a virtual hardware unique key of the platform, 32 bytes."""
        return _KEY.pack(*self._call(pe, RmmdFid.ISLET_GET_VHUK, which))

    def _token_sign(self, pe: int, op: TokenSignOp, size: int) -> tuple[int, ...]:
        return self._call(pe, RmmdFid.EL3_TOKEN_SIGN, op, self._shared_pa, size, CURVE_P384)

    def _call(self, pe: int, fid: RmmdFid, *args: int) -> tuple[int, ...]:
        """Call EL3; return x1 to x4."""
        results = self._el3.smc(pe, (fid, *args))
        if results[0] != RmmdError.OK:
            raise El3Refused(fid, RmmdError(results[0] - (1 << 64)))
        return (*results[1:5], 0, 0, 0, 0)[:4]
