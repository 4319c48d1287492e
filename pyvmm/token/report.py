"""The result of a verification: checks, findings, and the exit code that follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, StrEnum
from typing import Final

from pyvmm.token.cbor import Key, Malformed, Value
from pyvmm.token.generations import Generation

Payload = dict[Key, Value]


class Check(StrEnum):
    """The checks of a token, in order."""

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


#: A token is authentic if these have passed.
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
    SKIPPED = "skipped"  # not requested, or its input is missing


@dataclass(frozen=True, slots=True)
class Finding:
    """A deviation: where it is, what was expected and what was found."""

    check: Check
    kind: Kind
    path: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.actual}"


@dataclass(slots=True)
class Report:
    """All results of a verification."""

    findings: list[Finding] = field(default_factory=list)
    outcomes: dict[Check, Outcome] = field(
        default_factory=lambda: dict.fromkeys(Check, Outcome.SKIPPED)
    )
    generation: Generation | None = None
    platform: Payload | None = None
    realm: Payload | None = None

    def passed(self, check: Check) -> None:
        """Record that a check was made; a failed check stays failed."""
        if self.outcomes[check] is Outcome.SKIPPED:
            self.outcomes[check] = Outcome.PASSED

    def add(self, check: Check, kind: Kind, path: str, expected: str, actual: str) -> None:
        """Add a finding; any finding but a warning fails the check."""
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
        """Add a variant that a parser accepted."""
        self.add(check, Kind.WARNING, variant.path, "the strict form", variant.what)

    def malformed(self, check: Check, error: Malformed) -> None:
        """Add a defect that a parser rejected."""
        self.add(check, Kind.MALFORMED, error.path, _MALFORMED_EXPECTED[check], error.what)

    def kinds(self, *checks: Check) -> set[Kind]:
        """Return the kinds of the findings of some checks, or of all."""
        return {f.kind for f in self.findings if not checks or f.check in checks}

    @property
    def is_authentic(self) -> bool:
        """Whether the token is genuine and comes from the platform that it names."""
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
