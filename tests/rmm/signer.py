"""An EL3 that signs realm tokens, with delays and errors as a test requires."""

from collections.abc import Sequence
from hashlib import sha256
from threading import Lock

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmmd import (
    FEATURE_TOKEN_SIGN,
    RmmdError,
    RmmdFid,
    TokenSignOp,
    TokenSignRequest,
    TokenSignResponse,
)
from pyvmm.token.ecdsa import public_point
from tests.rmm.world import SHARED_PA, FakeEl3, FakeMachine
from tests.token.keys import key

RAK = key("rak")
RAK_PUBLIC = public_point(RAK)
HUNK_SIZE = 1000
Answer = tuple[int, ...]


def refusal(error: RmmdError) -> Answer:
    """Return an error as EL3 answers it."""
    return (error & (1 << 64) - 1,)


class SigningEl3(FakeEl3):
    """The attestation half of a Monitor.

    ``errors`` are answered first, by call and, for token signing, operation.  Responses wait in
    ``responses``, where a test may reorder, change and drop them.
    """

    def __init__(self, machine: FakeMachine) -> None:
        """Sign with the RAK; the platform token is arbitrary bytes."""
        super().__init__(machine)
        self.features = FEATURE_TOKEN_SIGN
        self.platform_token = bytes(range(250)) * 10
        self.errors: dict[tuple[int, int], list[RmmdError]] = {}
        self.responses: list[TokenSignResponse] = []
        self.challenges: list[bytes] = []
        self.lock: Lock | None = None  # one that the caller must not hold
        self._memory = machine.memory(Pas.REALM)
        self._rest = b""

    def smc(self, pe: int, args: Sequence[int]) -> Answer:
        """Answer a call."""
        fid, x1, x2, x3, *_ = (*args, 0, 0, 0)
        if fid in self.MOVES:
            return super().smc(pe, args)
        assert self.lock is None or not self.lock.locked()
        is_signing = fid == RmmdFid.EL3_TOKEN_SIGN
        errors = self.errors.get((fid, x1 if is_signing else 0))
        if errors:
            return refusal(errors.pop(0))
        match fid:
            case RmmdFid.EL3_FEATURES:
                return (0, self.features)
            case RmmdFid.ATTEST_GET_REALM_KEY:
                return self._put(RAK.private_numbers().private_value.to_bytes(48))
            case RmmdFid.ATTEST_GET_PLAT_TOKEN:
                return self._platform_token(x3)
            case RmmdFid.EL3_TOKEN_SIGN:
                assert x2 == SHARED_PA
                return self._token_sign(x1, x3)
            case _:
                return refusal(RmmdError.UNK)

    def _put(self, data: bytes, *more: int) -> Answer:
        self._memory.write(SHARED_PA, data)
        return (0, len(data), *more)

    def _platform_token(self, challenge_size: int) -> Answer:
        if challenge_size:
            self.challenges.append(self._memory.read(SHARED_PA, challenge_size))
            self._rest = self.platform_token
        hunk, self._rest = self._rest[:HUNK_SIZE], self._rest[HUNK_SIZE:]
        return self._put(hunk, len(self._rest))

    def _token_sign(self, op: int, size: int) -> Answer:
        match op:
            case TokenSignOp.GET_RAK_PUBLIC:
                assert size <= GRANULE_SIZE
                return self._put(RAK_PUBLIC)
            case TokenSignOp.PUSH_REQUEST:
                self.responses.append(
                    sign(TokenSignRequest(self._memory.read(SHARED_PA, TokenSignRequest.size)))
                )
                return (0,)
            case TokenSignOp.PULL_RESPONSE if self.responses:
                self._memory.write(SHARED_PA, self.responses.pop(0).data)
                return (0,)
            case _:
                return refusal(RmmdError.AGAIN)


def sign(request: TokenSignRequest) -> TokenSignResponse:
    """Sign a digest as the HES does."""
    assert (request.sig_alg, request.hash_alg) == (0, 1)
    r, s = decode_dss_signature(RAK.sign(request.hash[:48], ec.ECDSA(Prehashed(SHA384()))))
    signature = r.to_bytes(48) + s.to_bytes(48)
    return TokenSignResponse.of(
        rec=request.rec, ticket=request.ticket, sig_size=len(signature), signature=signature
    )


def binding_of(rak: bytes) -> bytes:
    """Return the challenge of a platform token that vouches for a key as the token carries it."""
    return sha256(rak).digest()
