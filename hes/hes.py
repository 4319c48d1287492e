"""The HES: its state, and how a machine leaves reset."""

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
#: Increased when a fixed fault of the trusted parts must not return; `firmware` counts it.
SECURITY_VERSION: Final = 1

#: Slot, type and files of the parts that the HES measures: itself, the machine and EL3.
_PARTS: Final = (
    (0, "RT_0", image.HES_FILES),
    (5, "SYS_CTRL_2", image.MACHINE_FILES),
    (11, "SECURE_RT_EL3", image.MONITOR_FILES),
)


class Hes:
    """The root of trust with its state in one directory, for the machines of one installation."""

    def __init__(
        self, directory: Path, root: Path, security_version: int = SECURITY_VERSION
    ) -> None:
        """Measure the HES now: this code runs, whatever is installed later."""
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
        """End a power cycle and forget it."""
        self.cycles.remove(cycle)

    def power_on(self, cycle: PowerCycle, generation: Generation) -> str:
        """Measure a machine and let it leave reset; return a notice for the user, or "".

        Raises: PsaError(BAD_STATE), with the reason, if the platform cannot attest.
        """
        if cycle.is_on:
            raise PsaError(PsaStatus.BAD_STATE, "the machine is already on")
        is_first = False

        def ready(otp: Otp | None) -> Otp:
            nonlocal is_first
            is_first = otp is None
            return self._ready(otp or self._with_new_identity(Otp(), _development()))

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
        """Check that a machine may leave reset; return the memory with the counter advanced."""
        if otp.lifecycle not in lifecycle.ATTESTING:
            raise PsaError(
                PsaStatus.BAD_STATE,
                f"its lifecycle state is {lifecycle.name(otp.lifecycle)}: {_ADVICE[otp.lifecycle]}",
            )
        if self._security_version < otp.counters["firmware"]:
            raise PsaError(
                PsaStatus.BAD_STATE,
                f"this pyvmm has security version {self._security_version}, but version"
                f" {otp.counters['firmware']} has run before: install a newer pyvmm",
            )
        return replace(otp, counters=otp.advanced("firmware", self._security_version))

    def _measure(self, parts: tuple[str, ...]) -> bytes:
        """Return the hash of installed files; recompute it only if a file has changed.

        Raises: PsaError(BAD_STATE) if a file cannot be read.
        """
        try:
            fingerprint = image.fingerprint(self._root, parts)
            known, digest = self._digests.get(parts, ((), b""))
            if known != fingerprint:
                digest = image.digest(self._root, parts)
                self._digests[parts] = fingerprint, digest
        except OSError as error:
            raise PsaError(
                PsaStatus.BAD_STATE, f"{error.filename}: {error.strerror}: reinstall pyvmm"
            ) from None
        return digest

    def _with_new_identity(self, old: Otp, new: Otp) -> Otp:
        """Return the new memory; if the identity changes, remove the old published key first."""
        if new.guk != old.guk:
            self.store.withdraw(CPAK_FILE)
        return new

    def _publish(self, otp: Otp) -> None:
        """Write the public key to where verifiers look for it."""
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  slow to import
            Encoding,
            PublicFormat,
        )

        key = keys.derive_cpak(otp.guk, otp.boot_hash).public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.store.publish(CPAK_FILE, pem)

    # --- state ---------------------------------------------------------------------------------

    def provision(self, bundle: bytes) -> Otp:
        """Accept a provisioning bundle.

        Raises: PsaError if it is rejected.
        """
        otp = self._update(
            lambda otp: self._with_new_identity(otp, provisioning.provision(otp, bundle))
        )
        if otp.lifecycle is LifecycleState.SECURED:
            self._publish(otp)
        return otp

    def set_lifecycle(self, state: LifecycleState) -> Otp:
        """Change the lifecycle state; the last state erases the keys.

        Raises: PsaError(NOT_PERMITTED) if it cannot follow the current state.
        """

        def change(otp: Otp) -> Otp:
            if state not in lifecycle.TRANSITIONS[otp.lifecycle]:
                now, then = lifecycle.name(otp.lifecycle), lifecycle.name(state)
                raise PsaError(PsaStatus.NOT_PERMITTED, f"{then} cannot follow {now}")
            if state is LifecycleState.DECOMMISSIONED:
                otp = replace(otp, huk=b"", guk=b"")
            return replace(otp, lifecycle=state)

        return self._update(change)

    def advance(self, counter: str, value: int) -> Otp:
        """Advance a counter.

        Raises: PsaError(INVALID_ARGUMENT) if it is unknown, (NOT_PERMITTED) if it would decrease.
        """
        return self._update(lambda otp: replace(otp, counters=otp.advanced(counter, value)))

    def _update(self, change: Callable[[Otp], Otp]) -> Otp:
        return self.store.update(lambda otp: change(otp or Otp()))


def _development() -> Otp:
    """Provision a random identity that no manufacturer vouches for."""
    otp = Otp()
    for bundle in provisioning.development_bundles():
        otp = provisioning.provision(otp, bundle)
    return otp


_ADVICE: Final = {
    LifecycleState.UNKNOWN: "remove its directory",
    LifecycleState.ASSEMBLY_AND_TEST: "give it the chip maker's bundle with `pyvmm hes provision`",
    LifecycleState.CCA_PLATFORM_ROT_PROVISIONING: (
        "give it the device maker's bundle with `pyvmm hes provision`"
    ),
    LifecycleState.DECOMMISSIONED: "its keys are erased; remove it, or choose another directory",
}
