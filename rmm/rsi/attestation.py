"""RSI_ATTESTATION_TOKEN_*: a realm gets a token that proves what it is, piece by piece.

Each REC has at most one request in progress::

    none --INIT--> challenge --CONTINUE--> being signed --CONTINUE--> partly read --CONTINUE--> none

What the token says is fixed by the first CONTINUE.  While it is being signed, CONTINUE writes
nothing and the realm calls again, so that its interrupts are taken.
"""

from typing import Final

from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE
from pyvmm.arch.rmmd import TokenSignResponse
from pyvmm.arch.rsi import RsiFid, RsiStatus
from rmm.attestation import Attestation
from rmm.commands import rsi_command
from rmm.el3 import El3Refused
from rmm.errors import RsiError
from rmm.rec import Rec, TokenRequest
from rmm.rmm import Rmm
from rmm.rsi.measurement import REGISTERS

DEFAULT_MAX_TOKEN_SIZE: Final = 4096  # bytes; what INIT promises without an attestation service


@rsi_command(RsiFid.RSI_ATTESTATION_TOKEN_INIT)
def attestation_token_init(
    rmm: Rmm,
    rec: Rec,
    challenge_0: int,
    challenge_1: int,
    challenge_2: int,
    challenge_3: int,
    challenge_4: int,
    challenge_5: int,
    challenge_6: int,
    challenge_7: int,
) -> tuple[int, ...]:
    """Begin an attestation with a 64-byte challenge; ends one in progress.

    Output: an upper bound of the token's size in bytes.
    Spec: DEN0137 1.0, RSI_ATTESTATION_TOKEN_INIT.
    """
    challenge = REGISTERS.pack(
        challenge_0,
        challenge_1,
        challenge_2,
        challenge_3,
        challenge_4,
        challenge_5,
        challenge_6,
        challenge_7,
    )
    rec.token_request = TokenRequest(challenge, next(rmm.tickets))
    max_size = rmm.attestation.max_token_size if rmm.attestation else DEFAULT_MAX_TOKEN_SIZE
    return RsiStatus.SUCCESS, max_size


@rsi_command(RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE)
def attestation_token_continue(
    rmm: Rmm, rec: Rec, pe: int, ipa: int, offset: int, size: int
) -> tuple[int, ...]:
    """Write the next part of the token to ``offset`` in the realm's page at ``ipa``.

    Output: bytes written; INCOMPLETE means there is more.
    Spec: DEN0137 1.0, RSI_ATTESTATION_TOKEN_CONTINUE.
    Raises: RsiError(ERROR_INPUT) if ``ipa`` is not a protected page or the part leaves it;
    (ERROR_STATE) without an attestation in progress; (ERROR_UNKNOWN) if no token can be made.
    """
    rtt = rec.realm.rtt
    if (
        ipa & GRANULE_OFFSET
        or not rtt.is_protected(ipa)
        or offset >= GRANULE_SIZE
        or offset + size > GRANULE_SIZE
    ):
        raise RsiError(RsiStatus.ERROR_INPUT)
    request = rec.token_request
    if request is None:
        raise RsiError(RsiStatus.ERROR_STATE)
    rtt.ram_page(ipa)  # a missing page is asked for before the token is made
    if request.token is None:
        _sign(rmm, pe, rec, request)
    if request.token is None:
        return RsiStatus.INCOMPLETE, 0
    if not request.token:
        rec.token_request = None
        raise RsiError(RsiStatus.ERROR_UNKNOWN)
    pa = rtt.ram_page(ipa)  # anew: the tables may have changed while the token was made
    part = request.token[request.offset : request.offset + size]
    rmm.memory.write(pa + offset, part)
    request.offset += len(part)
    if request.offset < len(request.token) or not size:
        return RsiStatus.INCOMPLETE, len(part)
    rec.token_request = None
    return RsiStatus.SUCCESS, len(part)


def _sign(rmm: Rmm, pe: int, rec: Rec, request: TokenRequest) -> None:
    """Bring the request nearer to its token, without the RMM's lock: EL3 takes its time."""
    attestation = rmm.attestation
    if attestation is None:
        request.token = b""
        return
    if not request.payload:
        attestation.begin(rec.realm, request)
    rmm.lock.release()
    has_failed, response = False, None
    try:
        response = attestation.sign(pe, rec.pa, request)
    except El3Refused:
        has_failed = True
    finally:
        rmm.lock.acquire()
    if response is not None:
        _deliver(rmm, attestation, response)
    if has_failed and request.token is None:
        request.token = b""


def _deliver(rmm: Rmm, attestation: Attestation, response: TokenSignResponse) -> None:
    """Give a signature to the request that it is for, unless nobody waits for it any more."""
    asker = rmm.recs.get(response.rec)
    request = asker.token_request if asker else None
    if request and request.ticket == response.ticket and request.token is None:
        attestation.finish(request, response)
