"""One machine from reset to power-off: its measurements, and the keys derived from them.

Keys, lifecycle and counters are those at reset; later changes in the HES affect the next cycle.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from hes import keys, lifecycle
from hes.errors import PsaError
from hes.measured_boot import HASH_NAMES, HASHES, MeasuredBoot, Measurement
from hes.otp import Otp
from pyvmm.arch.psa import PsaHash, PsaStatus
from pyvmm.token import ecdsa
from pyvmm.token.cose import Algorithm, Sign1, protected
from pyvmm.token.generations import Generation
from pyvmm.token.make import PlatformClaims, SwComponent, platform_payload, rak_encoding

_SCHEMES: Final[dict[PsaHash, HashAlgorithm]] = {
    PsaHash.SHA_256: SHA256(),
    PsaHash.SHA_384: SHA384(),
    PsaHash.SHA_512: SHA512(),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """The platform's identity at reset."""

    otp: Otp = field(repr=False)
    generation: Generation

    @property
    def lifecycle(self) -> int:
        """The lifecycle claim."""
        return lifecycle.claim(self.otp.lifecycle)


class PowerCycle:
    """The state of the HES for one machine."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.boot = MeasuredBoot()
        self._identity: Identity | None = None
        self._rak: ec.EllipticCurvePrivateKey | None = None
        self._rak_hash = PsaHash.UNKNOWN  # given to GET_KEY; unknown: any

    @property
    def is_on(self) -> bool:
        """Whether the machine has left reset."""
        return self._identity is not None

    def power_on(self, otp: Otp, generation: Generation) -> None:
        """Leave reset."""
        self._identity = Identity(otp, generation)

    @property
    def identity(self) -> Identity:
        """The platform's identity.

        Raises: PsaError(BAD_STATE) before the machine is on.
        """
        if self._identity is None:
            raise PsaError(PsaStatus.BAD_STATE, "the machine is not on")
        return self._identity

    def extend(self, index: int, measurement: Measurement, *, lock: bool) -> None:
        """Extend a slot; this invalidates the realm attestation key.

        Raises: PsaError; (BAD_STATE) before the machine is on, because the HES measures first.
        """
        _ = self.identity
        self.boot.extend(index, measurement, lock=lock)
        self._rak, self._rak_hash = None, PsaHash.UNKNOWN

    # --- the realm attestation key -------------------------------------------------------------

    def rak(self) -> ec.EllipticCurvePrivateKey:
        """Return the realm attestation key for the current measurements."""
        if self._rak is None:
            otp = self.identity.otp
            slots = self.boot.slots
            self._rak = keys.derive_rak(otp.guk, otp.boot_hash, self.identity.lifecycle, slots)
        return self._rak

    def give_rak(self, algorithm: PsaHash) -> bytes:
        """Return the private scalar; platform tokens must then use this hash algorithm."""
        number = self.rak().private_numbers().private_value
        self._rak_hash = algorithm
        return number.to_bytes(keys.SCALAR_SIZE, "big")

    def sign(self, algorithm: PsaHash, digest: bytes) -> bytes:
        """Sign a digest with the realm attestation key: r || s."""
        signature = self.rak().sign(digest, ec.ECDSA(Prehashed(_SCHEMES[algorithm])))
        numbers = decode_dss_signature(signature)
        return b"".join(number.to_bytes(keys.SCALAR_SIZE, "big") for number in numbers)

    # --- the platform token --------------------------------------------------------------------

    def platform_token(self, challenge: bytes) -> bytes:
        """Return a platform token that vouches for the realm attestation key.

        Raises: PsaError(BAD_STATE) if that key was not requested before, (INVALID_ARGUMENT) if the
        challenge is not its hash.
        """
        identity = self.identity
        if self._rak is None:
            raise PsaError(PsaStatus.BAD_STATE)
        encoding = rak_encoding(keys.public_bytes(self._rak), identity.generation)
        fitting = [
            algorithm
            for algorithm, function in HASHES.items()
            if function(encoding).digest() == challenge
        ]
        if not fitting or self._rak_hash not in {PsaHash.UNKNOWN, *fitting}:
            raise PsaError(PsaStatus.INVALID_ARGUMENT)
        payload = platform_payload(self._claims(challenge), identity.generation)
        unsigned = Sign1(protected(Algorithm.ES384), payload, b"")
        signature = ecdsa.sign(self._cpak, Algorithm.ES384, unsigned.to_be_signed)
        return Sign1(unsigned.protected, payload, signature).encode()

    @cached_property
    def _cpak(self) -> ec.EllipticCurvePrivateKey:
        otp = self.identity.otp
        return keys.derive_cpak(otp.guk, otp.boot_hash)

    def _claims(self, challenge: bytes) -> PlatformClaims:
        otp = self.identity.otp
        return PlatformClaims(
            challenge=challenge,
            implementation_id=otp.implementation_id,
            instance_id=keys.instance_id(self._cpak),
            config=otp.config,
            lifecycle=self.identity.lifecycle,
            components=tuple(
                SwComponent(
                    slot.value,
                    slot.signer_id,
                    slot.sw_type,
                    slot.version,
                    HASH_NAMES[slot.algorithm],
                )
                for slot in self.boot.slots
            ),
            verification_service=otp.verification_service,
        )

    # --- sealing keys --------------------------------------------------------------------------

    def vhuk_a(self) -> bytes:
        """Return the virtual HUK of the firmware's signers."""
        identity = self.identity
        return keys.derive_vhuk_a(identity.otp.huk, identity.lifecycle, self.boot.slots)

    def vhuk_m(self) -> bytes:
        """Return the virtual HUK of the firmware's measurements."""
        identity = self.identity
        return keys.derive_vhuk_m(identity.otp.huk, identity.lifecycle, self.boot.slots)
