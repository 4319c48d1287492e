"""The HES: what it keeps, and how a machine leaves reset."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from hes import image, keys, lifecycle, provisioning
from hes.errors import PsaError
from hes.measured_boot import Measurement
from hes.otp import Otp, Store
from hes.power_cycle import PowerCycle
from pyvmm import __version__
from pyvmm.arch.psa import PsaHash, PsaStatus
from pyvmm.token.claims import LifecycleState
from pyvmm.token.generations import Generation

CPAK_FILE: Final = "cpak.pem"
#: Raised when a fault of the trusted parts must not come back; the counter `firmware` follows.
SECURITY_VERSION: Final = 1

#: Slot, type and files of what the HES measures by itself: itself, the machine and EL3.
_PARTS: Final = (
    (0, "RT_0", image.HES_FILES),
    (5, "SYS_CTRL_2", image.MACHINE_FILES),
    (11, "SECURE_RT_EL3", image.MONITOR_FILES),
)


class Hes:
    """The root of trust behind one directory, for the machines of one installation."""

    def __init__(
        self, directory: Path, root: Path, security_version: int = SECURITY_VERSION
    ) -> None:
        """Measure ourselves now: that is what runs, whatever is installed later."""
        self.store = Store(directory)
        self.cycles: list[PowerCycle] = []
        self._root = root
        self._security_version = security_version
        self._digests: dict[tuple[str, ...], tuple[image.Fingerprint, bytes]] = {}
        self._own_digest = self._measure(image.HES_FILES)

    def connect(self, pid: int) -> PowerCycle:
        """Begin a power cycle: the machine is in reset."""
        cycle = PowerCycle(pid)
        self.cycles.append(cycle)
        return cycle

    def disconnect(self, cycle: PowerCycle) -> None:
        """End a power cycle: nothing of it remains."""
        self.cycles.remove(cycle)

    def power_on(self, cycle: PowerCycle, generation: Generation) -> str:
        """Let a machine leave reset, measured; return what the user should know.

        Raises: PsaError(BAD_STATE), with the reason, if there is nothing to attest with.
        """
        if cycle.is_on:
            raise PsaError(PsaStatus.BAD_STATE, "the machine is on already")
        is_first = False

        def ready(otp: Otp | None) -> Otp:
            nonlocal is_first
            is_first = otp is None
            return self._ready(otp or self._renamed(Otp(), _development()))

        otp = self.store.update(ready)
        measured = [
            (slot, sw_type, self._own_digest if slot == 0 else self._measure(files))
            for slot, sw_type, files in _PARTS
        ]
        if not (self.store.directory / CPAK_FILE).exists():
            self._publish(otp)
        cycle.power_on(otp, generation)
        for slot, sw_type, digest in measured:
            measurement = Measurement(
                PsaHash.SHA_256, digest, image.SIGNER_ID, __version__, sw_type
            )
            cycle.extend(slot, measurement, lock=True)
        return f"made a random development identity in {self.store.directory}" if is_first else ""

    def _ready(self, otp: Otp) -> Otp:
        """Return the memory as it is when a machine leaves reset."""
        if otp.lifecycle not in lifecycle.ATTESTING:
            raise PsaError(
                PsaStatus.BAD_STATE,
                f"its lifecycle state is {lifecycle.name(otp.lifecycle)}: {_ADVICE[otp.lifecycle]}",
            )
        if self._security_version < otp.counters["firmware"]:
            raise PsaError(
                PsaStatus.BAD_STATE,
                f"this pyvmm has security version {self._security_version}, and"
                f" {otp.counters['firmware']} was seen before: install a newer one",
            )
        return replace(otp, counters=otp.advanced("firmware", self._security_version))

    def _measure(self, parts: tuple[str, ...]) -> bytes:
        """Return the hash of installed files; hashed again only if one has changed.

        Raises: PsaError(BAD_STATE) if one cannot be read.
        """
        try:
            fingerprint = image.fingerprint(self._root, parts)
            known, digest = self._digests.get(parts, ((), b""))
            if known != fingerprint:
                digest = image.digest(self._root, parts)
                self._digests[parts] = fingerprint, digest
        except OSError as error:
            raise PsaError(
                PsaStatus.BAD_STATE, f"{error.filename}: {error.strerror}: install pyvmm anew"
            ) from None
        return digest

    def _renamed(self, old: Otp, new: Otp) -> Otp:
        """Return the new memory; the key of another identity is not left where verifiers look."""
        if new.guk != old.guk:
            self.store.withdraw(CPAK_FILE)
        return new

    def _publish(self, otp: Otp) -> None:
        """Leave the public key where verifiers find it."""
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  slow to import
            Encoding,
            PublicFormat,
        )

        key = keys.derive_cpak(otp.guk, otp.boot_hash).public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.store.publish(CPAK_FILE, pem)

    # --- what is kept --------------------------------------------------------------------------

    def provision(self, bundle: bytes) -> Otp:
        """Take a provisioning bundle.

        Raises: PsaError if it is refused.
        """
        otp = self._update(lambda otp: self._renamed(otp, provisioning.provision(otp, bundle)))
        if otp.lifecycle is LifecycleState.SECURED:
            self._publish(otp)
        return otp

    def set_lifecycle(self, state: LifecycleState) -> Otp:
        """Go to another lifecycle state; the last one takes the keys with it.

        Raises: PsaError(NOT_PERMITTED) if it may not follow the present one.
        """

        def change(otp: Otp) -> Otp:
            if state not in lifecycle.TRANSITIONS[otp.lifecycle]:
                now, then = lifecycle.name(otp.lifecycle), lifecycle.name(state)
                raise PsaError(PsaStatus.NOT_PERMITTED, f"{then} does not follow {now}")
            if state is LifecycleState.DECOMMISSIONED:
                otp = replace(otp, huk=b"", guk=b"")
            return replace(otp, lifecycle=state)

        return self._update(change)

    def advance(self, counter: str, value: int) -> Otp:
        """Advance a counter.

        Raises: PsaError(INVALID_ARGUMENT) if there is no such one, (NOT_PERMITTED) to go back.
        """
        return self._update(lambda otp: replace(otp, counters=otp.advanced(counter, value)))

    def _update(self, change: Callable[[Otp], Otp]) -> Otp:
        return self.store.update(lambda otp: change(otp or Otp()))


def _development() -> Otp:
    """Provision an identity that no maker stands behind."""
    otp = Otp()
    for bundle in provisioning.development_bundles():
        otp = provisioning.provision(otp, bundle)
    return otp


_ADVICE: Final = {
    LifecycleState.UNKNOWN: "remove it",
    LifecycleState.ASSEMBLY_AND_TEST: "give it the chip maker's bundle with `pyvmm hes provision`",
    LifecycleState.CCA_PLATFORM_ROT_PROVISIONING: (
        "give it the device maker's bundle with `pyvmm hes provision`"
    ),
    LifecycleState.DECOMMISSIONED: "its keys are gone; choose another directory, or remove it",
}
