"""The attestation services of EL3: the realm attestation key and the platform token.

They come from the HES; without one the RMM is told that EL3 does not know these calls.  Answers
go through the granule that EL3 and the RMM share.
Spec: TF-A, "RMM-EL3 communication interface", RMM_ATTEST_GET_REALM_KEY, _GET_PLAT_TOKEN.
"""

from threading import Lock

from monitor.protocols import Hes, PhysicalMemory
from pyvmm.arch.bits import MASK64
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmmd import CHALLENGE_SIZES, CURVE_P384, RmmdError

Answer = tuple[int, ...]


def refuse(error: RmmdError) -> Answer:
    """Return an error as the RMM sees it in x0."""
    return (error & MASK64,)


class AttestationServices:
    """Answers the RMM's attestation calls; keeps what is left of a token between them."""

    def __init__(self, realm: PhysicalMemory, shared_pa: int, hes: Hes | None) -> None:
        self._memory = realm
        self._shared_pa = shared_pa
        self._hes = hes
        self._lock = Lock()
        self._rest = b""

    def get_realm_key(self, buf_pa: int, buf_size: int, curve: int) -> Answer:
        """Put the realm attestation key into the shared buffer; x1 is its size."""
        if self._hes is None:
            return refuse(RmmdError.UNK)
        if not self._is_shared(buf_pa, buf_size):
            return refuse(RmmdError.BAD_ADDR)
        if curve != CURVE_P384:
            return refuse(RmmdError.INVAL)
        try:
            key = self._hes.realm_key(curve)
        except OSError:
            return refuse(RmmdError.UNK)
        if len(key) > buf_size:
            return refuse(RmmdError.INVAL)
        self._memory.write(buf_pa, key)
        return (RmmdError.OK, len(key))

    def get_platform_token(self, buf_pa: int, buf_size: int, challenge_size: int) -> Answer:
        """Put the next part of the platform token into the shared buffer.

        A call with a challenge (at the start of the buffer) begins a new token, one without
        continues.  x1 is the size of this part, x2 what remains.
        """
        if self._hes is None:
            return refuse(RmmdError.UNK)
        if not self._is_shared(buf_pa, buf_size) or challenge_size > buf_size:
            return refuse(RmmdError.BAD_ADDR)
        with self._lock:
            if challenge_size in CHALLENGE_SIZES:
                try:
                    challenge = self._memory.read(buf_pa, challenge_size)
                    self._rest = self._hes.platform_token(challenge)
                except OSError:
                    return refuse(RmmdError.UNK)
            elif challenge_size or not self._rest:
                return refuse(RmmdError.INVAL)
            part, self._rest = self._rest[:buf_size], self._rest[buf_size:]
            self._memory.write(buf_pa, part)
            return (RmmdError.OK, len(part), len(self._rest))

    def _is_shared(self, pa: int, size: int) -> bool:
        end = self._shared_pa + GRANULE_SIZE
        return self._shared_pa <= pa < end and 0 < size <= end - pa
