"""Realm tokens: their claims and their signatures.

The RMM fetches the realm attestation key (RAK) and the platform token from EL3 once, when it
boots, and uses them for the power cycle.  EL3 signs with a key that stays in the HES; if EL3 cannot
sign, it exports the key and the RMM signs.  Signing is asynchronous: the RMM pushes a request, and
a later pull returns the signature, or that of another REC's request.
"""

from collections.abc import Callable
from hashlib import sha384
from typing import Final

from pyvmm.arch.rmi import HashAlgorithm
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.arch.rmmd import RmmdError, TokenSignResponse
from pyvmm.token.cose import Algorithm, Sign1, protected, sig_structure
from pyvmm.token.generations import Generation
from pyvmm.token.make import RealmClaims, binding, cca_token, realm_payload
from rmm.el3 import El3Refused, El3Services
from rmm.realm import Realm
from rmm.rec import TokenRequest

MAX_REALM_TOKEN: Final = 1024  # bytes, including the signature and the binding
_PROTECTED: Final = protected(Algorithm.ES384)
_SIGNATURE_SIZE: Final = 2 * Algorithm.ES384.coordinate_size
_HASH_NAMES: Final = {
    HashAlgorithm.SHA_256: "sha-256",
    HashAlgorithm.SHA_384: "sha-384",
    HashAlgorithm.SHA_512: "sha-512",
}
#: The generation of the tokens of realms by RMI 2.0, where the platform's is that of 1.0: the
#: platform's own claims are the same.
_OF_RMI_2: Final = {Generation.G1: Generation.G2, Generation.G1B: Generation.G2}

#: Signs the encoded Sig_structure.
Signer = Callable[[bytes], bytes]


class Attestation:
    """Makes the tokens of all realms; ``boot`` fetches the key and the platform token."""

    def __init__(
        self,
        el3: El3Services,
        generation: Generation,
        rak: bytes,
        platform_token: bytes,
        signer: Signer | None = None,
    ) -> None:
        """Use a public RAK (a SEC1 point); without ``signer``, EL3 holds the private key."""
        self._el3 = el3
        self._generation = generation
        self._rak = rak
        self._platform_token = platform_token
        self._signer = signer
        self.max_token_size = len(platform_token) + MAX_REALM_TOKEN

    @classmethod
    def boot(cls, el3: El3Services, generation: Generation, pe: int) -> "Attestation | None":
        """Fetch the key and the platform token; None if EL3 does not provide them."""
        signer: Signer | None = None
        try:
            if el3.signs_tokens(pe):
                rak = el3.rak_public(pe)
            else:
                rak, signer = _own_key(el3.realm_key(pe))
            platform_token = el3.platform_token(pe, binding(rak, generation))
        except (El3Refused, ValueError):  # ValueError: not a P-384 key
            return None
        return cls(el3, generation, rak, platform_token, signer)

    def begin(self, realm: Realm, request: TokenRequest) -> None:
        """Fix the claims of the token."""
        measurements = realm.measurements.values
        claims = RealmClaims(
            challenge=request.challenge,
            rpv=realm.rpv,
            hash_algorithm=_HASH_NAMES[HashAlgorithm(realm.hash_algo)],
            rak=self._rak,
            rim=measurements[0],
            rems=tuple(measurements[1:]),
            instance_id=realm.instance_id,
        )
        request.generation = self._generation
        if realm.revision != VERSION_1_0:
            request.generation = _OF_RMI_2.get(self._generation, self._generation)
        request.payload = realm_payload(claims, request.generation)

    def sign(self, pe: int, rec: int, request: TokenRequest) -> TokenSignResponse | None:
        """Push the request if necessary, then pull a response, possibly another request's.

        Return None if EL3 is busy.  Raises: El3Refused if signing fails.
        """
        to_be_signed = sig_structure(_PROTECTED, request.payload)
        if self._signer is not None:
            signature = self._signer(to_be_signed)
            return TokenSignResponse.of(
                rec=rec, ticket=request.ticket, sig_size=len(signature), signature=signature
            )
        if not request.is_pushed:
            self._push(pe, rec, request, sha384(to_be_signed).digest())
        # Pull even if EL3 is full: its responses may belong to requests that were abandoned.
        try:
            return self._el3.pull(pe)
        except El3Refused as refusal:
            if refusal.error is RmmdError.AGAIN:
                return None
            raise

    def _push(self, pe: int, rec: int, request: TokenRequest, digest: bytes) -> None:
        """Have EL3 sign, if it accepts another request."""
        try:
            self._el3.push(pe, rec, request.ticket, digest)
            request.is_pushed = True
        except El3Refused as refusal:
            if refusal.error is not RmmdError.AGAIN:
                raise

    def finish(self, request: TokenRequest, response: TokenSignResponse) -> None:
        """Make the token from the signature; without one, the token stays empty."""
        if response.sig_size == _SIGNATURE_SIZE:
            signature = response.signature[:_SIGNATURE_SIZE]
            realm_token = Sign1(_PROTECTED, request.payload, signature).encode()
            request.token = cca_token(self._platform_token, realm_token, request.generation)
        else:
            request.token = b""


def _own_key(scalar: bytes) -> tuple[bytes, Signer]:
    """Return the public key of a private key, and a function that signs with it.

    ValueError if it is not a P-384 key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  slow, seldom needed

    from pyvmm.token.ecdsa import public_point, sign  # noqa: PLC0415

    key = ec.derive_private_key(int.from_bytes(scalar), ec.SECP384R1())
    return public_point(key), lambda data: sign(key, Algorithm.ES384, data)
