"""The owner of a realm: elsewhere, with a verifier, and trusts nothing that this host says."""

import os

from pyvmm.arch.rsi import CHALLENGE_SIZE
from pyvmm.token.appraise import Policy
from pyvmm.token.reference import PlatformValues, RealmValues, ReferenceValues
from pyvmm.token.report import Check, Kind, Report
from pyvmm.token.trust import TrustStore
from pyvmm.token.verify import verify


class Owner:
    """Verifies tokens: the platform's key, the platform's firmware, the realm's measurement."""

    def __init__(self, trust: TrustStore, platform: PlatformValues, rim: bytes) -> None:
        self._trust = trust
        self._platform = platform
        self.rim = rim

    def challenge(self) -> bytes:
        """Return a fresh challenge."""
        return os.urandom(CHALLENGE_SIZE)

    def verify(self, token: bytes, challenge: bytes) -> Report:
        """Verify a token against all reference values."""
        reference = ReferenceValues(self._platform, RealmValues(rim=self.rim))
        return verify(token, self._trust, Policy(challenge, reference))

    def defects(self, token: bytes, challenge: bytes) -> dict[Check, str]:
        """Return what is wrong with a token: a line for each check that failed."""
        found: dict[Check, str] = {}
        for finding in self.verify(token, challenge).findings:
            if finding.kind is not Kind.WARNING:
                found.setdefault(finding.check, f"{finding.check}: {finding.path}")
        return found
