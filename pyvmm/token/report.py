"""What a verification found: checks, findings, and the exit code that they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, StrEnum
from typing import Final

from pyvmm.token.cbor import Key, Malformed, Value
from pyvmm.token.generations import Generation

Payload = dict[Key, Value]


class Check(StrEnum):
    """The checks of a token, in the order in which they are made."""

    ENCODING = "encoding"
    OUTER_FORM = "outer form"
    SIGN1 = "COSE_Sign1"
    CLAIMS = "claims"
    PROFILE = "profile"
    TRUST_ANCHOR = "trust anchor"
    PLATFORM_SIGNATURE = "platform signature"
    BINDING = "binding"
    REALM_SIGNATURE = "realm signature"
    CHALLENGE = "challenge"
    LIFECYCLE = "lifecycle"
    SW_COMPONENTS = "software components"
    PLATFORM_VALUES = "platform values"
    REALM_VALUES = "realm values"


#: A token is authentic when these have passed.
AUTHENTICITY: Final = (
    Check.ENCODING,
    Check.OUTER_FORM,
    Check.SIGN1,
    Check.CLAIMS,
    Check.PROFILE,
    Check.TRUST_ANCHOR,
    Check.PLATFORM_SIGNATURE,
    Check.BINDING,
    Check.REALM_SIGNATURE,
)

_MALFORMED_EXPECTED: Final[Mapping[Check, str]] = {
    Check.ENCODING: "strict CBOR",
    Check.OUTER_FORM: "a CCA token",
    Check.SIGN1: "a COSE_Sign1",
    Check.CLAIMS: "claims",
}


class Kind(IntEnum):
    """What a finding means for the token; the value is its exit code."""

    WARNING = 0
    NOT_AUTHENTIC = 1
    MALFORMED = 3
    REFUSED = 4


class Outcome(Enum):
    """How a check went."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # not asked for, or what it looks at is not there


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: where, what should be there and what is."""

    check: Check
    kind: Kind
    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.actual}"


@dataclass(slots=True)
class Report:
    """All that a verification found out."""

    findings: list[Finding] = field(default_factory=list)
    outcomes: dict[Check, Outcome] = field(
        default_factory=lambda: dict.fromkeys(Check, Outcome.SKIPPED)
    )
    generation: Generation | None = None
    platform: Payload | None = None
    realm: Payload | None = None

    def passed(self, check: Check) -> None:
        """Say that a check was made; one that has failed stays failed."""
        if self.outcomes[check] is Outcome.SKIPPED:
            self.outcomes[check] = Outcome.PASSED

    def add(self, check: Check, kind: Kind, path: str, expected: str, actual: str) -> None:
        """Add a finding; all but a warning fail the check."""
        self.findings.append(Finding(check, kind, path, expected, actual))
        if kind is not Kind.WARNING:
            self.outcomes[check] = Outcome.FAILED

    def refuse_warnings(self) -> None:
        """Turn every warning into a refusal."""
        for index, finding in enumerate(self.findings):
            if finding.kind is Kind.WARNING:
                self.findings[index] = replace(finding, kind=Kind.REFUSED)
                self.outcomes[finding.check] = Outcome.FAILED

    def variant(self, check: Check, variant: Malformed) -> None:
        """Add what a parser let pass."""
        self.add(check, Kind.WARNING, variant.path, "the strict form", variant.what)

    def malformed(self, check: Check, error: Malformed) -> None:
        """Add what a parser refused."""
        self.add(check, Kind.MALFORMED, error.path, _MALFORMED_EXPECTED[check], error.what)

    def kinds(self, *checks: Check) -> set[Kind]:
        """Return the kinds of the findings of some checks, or of all."""
        return {f.kind for f in self.findings if not checks or f.check in checks}

    @property
    def is_authentic(self) -> bool:
        """Whether the token is what it says, from the platform that it says."""
        were_made = all(self.outcomes[check] is not Outcome.SKIPPED for check in AUTHENTICITY)
        return were_made and not self.kinds() & {Kind.MALFORMED, Kind.NOT_AUTHENTIC}

    @property
    def exit_code(self) -> int:
        """0 verified, 1 not authentic, 3 malformed, 4 authentic but refused by policy."""
        if Kind.MALFORMED in self.kinds():
            return Kind.MALFORMED
        if not self.is_authentic:
            return Kind.NOT_AUTHENTIC
        return Kind.REFUSED if Kind.REFUSED in self.kinds() else 0
