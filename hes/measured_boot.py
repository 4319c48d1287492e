"""The measurement slots of one machine, and the log of their extensions.

A slot is empty until its first extension.  Extending hashes the new digest into the old value; only
a reset clears it.  Replaying the log gives the slots' values.
Spec: TF-M, measured boot partition.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from hes.errors import PsaError
from pyvmm.arch.psa import (
    NUM_SLOTS,
    SIGNER_ID_SIZES,
    SW_TYPE_SIZE,
    VERSION_SIZE,
    PsaHash,
    PsaStatus,
)

#: Maximum number of extensions in a power cycle, to bound memory; a boot needs a handful.
MAX_EVENTS: Final = 256
HASHES: Final = {
    PsaHash.SHA_256: hashlib.sha256,
    PsaHash.SHA_384: hashlib.sha384,
    PsaHash.SHA_512: hashlib.sha512,
}
#: Names in tokens.
HASH_NAMES: Final = {
    PsaHash.SHA_256: "sha-256",
    PsaHash.SHA_384: "sha-384",
    PsaHash.SHA_512: "sha-512",
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """The digest of a measured part, and its signer."""

    algorithm: PsaHash
    digest: bytes
    signer_id: bytes
    version: str = ""
    sw_type: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot with a value."""

    index: int
    algorithm: PsaHash
    value: bytes
    signer_id: bytes
    version: str
    sw_type: str
    is_locked: bool


@dataclass(frozen=True, slots=True)
class BootEvent:
    """An extension, and the slot's value after it."""

    index: int
    measurement: Measurement
    is_locked: bool
    value: bytes


class MeasuredBoot:
    """The slots of one power cycle, all empty after reset."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self.events: list[BootEvent] = []

    @property
    def slots(self) -> list[Slot]:
        """The slots that have a value, in the order of their indices."""
        return [self._slots[index] for index in sorted(self._slots)]

    def read(self, index: int) -> Slot:
        """Return a slot.

        Raises: PsaError(INVALID_ARGUMENT) if the slot is unknown, (DOES_NOT_EXIST) if it is
        empty.
        """
        if index >= NUM_SLOTS:
            raise PsaError(PsaStatus.INVALID_ARGUMENT)
        if index not in self._slots:
            raise PsaError(PsaStatus.DOES_NOT_EXIST)
        return self._slots[index]

    def extend(self, index: int, measurement: Measurement, *, lock: bool) -> None:
        """Extend a slot; with ``lock``, lock it for the rest of the power cycle.

        A second extension clears version and type, which describe one measurement only.
        Raises: PsaError, without a change.
        """
        self._check(index, measurement)
        old = self._slots.get(index)
        digest = measurement.digest
        base = bytes(len(digest)) if old is None else old.value
        value = HASHES[measurement.algorithm](base + digest).digest()
        self._slots[index] = Slot(
            index,
            measurement.algorithm,
            value,
            measurement.signer_id,
            measurement.version if old is None else "",
            measurement.sw_type if old is None else "",
            lock,
        )
        self.events.append(BootEvent(index, measurement, lock, value))

    def _check(self, index: int, measurement: Measurement) -> None:
        if index >= NUM_SLOTS or not _is_well_formed(measurement):
            raise PsaError(PsaStatus.INVALID_ARGUMENT)
        old = self._slots.get(index)
        if old is not None and old.is_locked:
            raise PsaError(PsaStatus.BAD_STATE)
        if old is not None and (old.signer_id, old.algorithm) != (
            measurement.signer_id,
            measurement.algorithm,
        ):
            raise PsaError(PsaStatus.NOT_PERMITTED)
        if len(self.events) == MAX_EVENTS:
            raise PsaError(PsaStatus.INSUFFICIENT_STORAGE)


def _is_well_formed(measurement: Measurement) -> bool:
    algorithm = HASHES.get(measurement.algorithm)
    return (
        algorithm is not None
        and len(measurement.digest) == algorithm().digest_size
        and len(measurement.signer_id) in SIGNER_ID_SIZES
        and _is_name(measurement.version, VERSION_SIZE)
        and _is_name(measurement.sw_type, SW_TYPE_SIZE)
    )


def _is_name(text: str, size: int) -> bool:
    return len(text.encode()) <= size and (text.isprintable() or not text)
