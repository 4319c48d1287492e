"""AR4SI: the trustworthiness claims of an attestation result, and their tiers.

Spec: draft-ietf-rats-ar4si, "Trustworthiness Vector".
"""

from enum import IntEnum, StrEnum
from typing import Final, TypeAlias


class Tier(StrEnum):
    """What a claim, or the worst of several claims, means to a relying party."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


class General(IntEnum):
    """Values for claims of every category."""

    VERIFIER_MALFUNCTION = -1
    NO_CLAIM = 0
    UNEXPECTED_EVIDENCE = 1
    CRYPTO_VALIDATION_FAILED = 99


class InstanceIdentity(IntEnum):
    """Whether this instance of an attester is known."""

    TRUSTWORTHY = 2
    UNTRUSTWORTHY = 96
    UNRECOGNIZED = 97


class Configuration(IntEnum):
    """What the attester's configuration exposes."""

    APPROVED = 2
    NO_VULNERABILITIES = 3
    UNSAFE = 32
    UNAVAILABLE_ELEMENTS = 36
    UNSUPPORTABLE = 96


class Executables(IntEnum):
    """What code has been loaded."""

    APPROVED_RUNTIME = 2
    APPROVED_BOOT = 3
    UNSAFE_RUNTIME = 32
    UNRECOGNIZED_RUNTIME = 33
    CONTRAINDICATED_RUNTIME = 96


class FileSystem(IntEnum):
    """What files were found."""

    APPROVED = 2
    UNRECOGNIZED = 32
    CONTRAINDICATED = 96


class Hardware(IntEnum):
    """Which hardware and firmware the attester has."""

    GENUINE = 2
    UNSAFE = 32
    CONTRAINDICATED = 96
    UNRECOGNIZED = 97


class RuntimeOpaque(IntEnum):
    """Who can read the attester's memory."""

    ENCRYPTED_MEMORY = 2
    ISOLATED_MEMORY = 32
    VISIBLE_MEMORY = 96


class StorageOpaque(IntEnum):
    """How secrets are stored."""

    HW_KEYS_ENCRYPTED_SECRETS = 2
    SW_KEYS_ENCRYPTED_SECRETS = 32
    UNENCRYPTED_SECRETS = 96


class SourcedData(IntEnum):
    """Where the attester's data came from."""

    TRUSTED = 2
    UNTRUSTED = 32
    CONTRAINDICATED = 96


class Category(StrEnum):
    """The categories of a trustworthiness vector."""

    INSTANCE_IDENTITY = "instance-identity"
    CONFIGURATION = "configuration"
    EXECUTABLES = "executables"
    FILE_SYSTEM = "file-system"
    HARDWARE = "hardware"
    RUNTIME_OPAQUE = "runtime-opaque"
    STORAGE_OPAQUE = "storage-opaque"
    SOURCED_DATA = "sourced-data"


VALUES: Final[dict[Category, type[IntEnum]]] = {
    Category.INSTANCE_IDENTITY: InstanceIdentity,
    Category.CONFIGURATION: Configuration,
    Category.EXECUTABLES: Executables,
    Category.FILE_SYSTEM: FileSystem,
    Category.HARDWARE: Hardware,
    Category.RUNTIME_OPAQUE: RuntimeOpaque,
    Category.STORAGE_OPAQUE: StorageOpaque,
    Category.SOURCED_DATA: SourcedData,
}

Vector: TypeAlias = dict[Category, IntEnum]


def vector_of(value: General) -> Vector:
    """Return a vector with the same value in every category."""
    return dict.fromkeys(Category, value)


def tier_of(value: int) -> Tier:
    """Return the tier of a claim; a verifier defines its own negative values.

    >>> [tier_of(value).value for value in (1, 3, -40, 97)]
    ['none', 'affirming', 'warning', 'contraindicated']
    """
    if -1 <= value <= 1:
        return Tier.NONE
    if -32 <= value <= 31:
        return Tier.AFFIRMING
    return Tier.WARNING if -96 <= value <= 95 else Tier.CONTRAINDICATED


def status_of(*vectors: Vector) -> Tier:
    """Return the worst tier of some vectors."""
    tiers = (tier_of(value) for vector in vectors for value in vector.values())
    return max(tiers, key=list(Tier).index)
