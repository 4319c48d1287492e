"""Verification of attestation tokens, as `pyvmm verify` does it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyvmm.token.appraise import Policy
from pyvmm.token.cbor import Malformed
from pyvmm.token.claims import CHALLENGE_SIZE
from pyvmm.token.intake import token_bytes
from pyvmm.token.keys import load_public_key, read_key
from pyvmm.token.reference import ReferenceValues
from pyvmm.token.report import Check, Report
from pyvmm.token.trust import Anchor, TrustStore, anchor_of, hes_anchors
from pyvmm.token.verify import verify as verify_token

__all__ = ["Report", "verify"]


def verify(
    token: bytes,
    *,
    challenge: bytes | None = None,
    reference: str | Path | None = None,
    rim: bytes | None = None,
    cpak: str | Path | None = None,
    trust_stores: Sequence[str | Path] = (),
    strict: bool = False,
) -> Report:
    """Verify a token: raw, hexadecimal or base64.

    Without ``cpak`` and ``trust_stores``, the key comes from the reference file, or else from this
    machine's HES.  ``report.exit_code`` is 0 for a token that is authentic and as expected;
    ``report.findings`` says what is wrong.

    Args:
        token: the token.
        challenge: that the token must contain; up to 64 bytes, padded with zeros.
        reference: file with the expected values, from `pyvmm endorse`.
        rim: the expected initial measurement.
        cpak: file with the platform's public key.
        trust_stores: directories of keys and reference files.
        strict: refuse a token that gives warnings.
    """
    values = ReferenceValues.load(Path(reference)) if reference else ReferenceValues()
    if rim is not None:
        values = replace(values, realm=replace(values.realm, rim=rim))
    padded = None if challenge is None else challenge.ljust(CHALLENGE_SIZE, b"\0")
    policy = Policy(challenge=padded, reference=values, is_strict=strict)
    return verify_text(token, trust_for(cpak, trust_stores, values), policy)


def trust_for(
    cpak: str | Path | None, stores: Sequence[str | Path], values: ReferenceValues
) -> TrustStore:
    """Return the trust anchors: those given, or else the reference file's, or this machine's."""
    if cpak is not None or stores:
        anchors = TrustStore.load(tuple(map(Path, stores))).anchors
        if cpak is not None:
            key = load_public_key(read_key(Path(cpak)), str(cpak))
            anchors = (Anchor(key), *anchors)
        return TrustStore(anchors)
    if (anchor := anchor_of(values)) is not None:
        return TrustStore((anchor,))
    from pyvmm.root_of_trust import hes_directory  # noqa: PLC0415  loads the HES's client

    return hes_anchors(hes_directory())


def verify_text(data: bytes, trust: TrustStore, policy: Policy) -> Report:
    """Verify a token that may be hexadecimal or base64."""
    try:
        token = token_bytes(data)
    except Malformed as error:
        report = Report()
        report.malformed(Check.ENCODING, error)
        return report
    return verify_token(token, trust, policy)
