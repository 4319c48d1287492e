"""RSI_ATTESTATION_TOKEN_*: a realm gets its attestation token, part by part.

Each REC has at most one request in progress::

    none --INIT--> challenge --CONTINUE--> being signed --CONTINUE--> partly read --CONTINUE--> none

The first CONTINUE fixes the token's claims.  While the token is being signed, CONTINUE writes
nothing and the realm calls again, so that it can take interrupts.
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

DEFAULT_MAX_TOKEN_SIZE: Final = 4096  # bytes; returned by INIT without an attestation service


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
    """Begin an attestation with a 64-byte challenge; abandon one in progress.

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

    Output: bytes written; INCOMPLETE means that more follow.
    Spec: DEN0137 1.0, RSI_ATTESTATION_TOKEN_CONTINUE.
    Raises: RsiError(ERROR_INPUT) if ``ipa`` is not a protected page or the part exceeds it;
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
    rtt.ram_page(ipa)  # request a missing page before the token is made
    if request.token is None:
        _sign(rmm, pe, rec, request)
    if request.token is None:
        return RsiStatus.INCOMPLETE, 0
    if not request.token:
        rec.token_request = None
        raise RsiError(RsiStatus.ERROR_UNKNOWN)
    pa = rtt.ram_page(ipa)  # again: the tables may have changed in the meantime
    part = request.token[request.offset : request.offset + size]
    rmm.memory.write(pa + offset, part)
    request.offset += len(part)
    if request.offset < len(request.token) or not size:
        return RsiStatus.INCOMPLETE, len(part)
    rec.token_request = None
    return RsiStatus.SUCCESS, len(part)


def _sign(rmm: Rmm, pe: int, rec: Rec, request: TokenRequest) -> None:
    """Advance the request, without the RMM's lock because EL3 may be slow."""
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
    """Pass a signature to its request, unless that was abandoned."""
    asker = rmm.recs.get(response.rec)
    request = asker.token_request if asker else None
    if request and request.ticket == response.ticket and request.token is None:
        attestation.finish(request, response)
