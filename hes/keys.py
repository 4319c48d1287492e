"""Key derivation from HUK and GUK.

::

    GUK --(boot state)--> CPAK              signs platform tokens; its hash names the platform
    GUK --(boot state)--> seed --(measurements)--> RAK (the DAK)   signs realm tokens
    HUK --(signers, lifecycle)------------> VHUK_A                 survives firmware updates
    HUK --(measurements, lifecycle)-------> VHUK_M                 bound to exactly this firmware

Spec: NIST SP 800-108 in counter mode, as TF-M's RSE and Islet do it; RFC 5869.
"""

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hes.measured_boot import HASH_NAMES, Slot
from pyvmm.token.cbor import Value, encode
from pyvmm.token.claims import SwComponentKey

KEY_SIZE: Final = 32  # HUK, GUK and every seed
SCALAR_SIZE: Final = 48  # P-384
#: Order of P-384.
ORDER: Final = (1 << 384) - 0x389CB27E_0BC8D220_A7E5F24D_B74F5885_1313E695_333AD68D

LCS_SECURED: Final = 3
REPROVISIONING_BITS: Final = 0  # our keys are never provisioned a second time
_CPAK_LABEL: Final = b"BL1_CPAK_SEED_DERIVATION"
_DAK_LABEL: Final = b"BL1_DAK_SEED_DERIVATION"


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def derive_seed(key: bytes, label: bytes, context: bytes, lcs: int = LCS_SECURED) -> bytes:
    """Derive 32 bytes from a 32-byte key, for one purpose and in one boot state."""
    state = context + _u32(lcs) + _u32(REPROVISIONING_BITS)
    digest = hashlib.sha256(_u32(1) + label + b"\0" + state + _u32(KEY_SIZE)).digest()
    # ECB is safe here: it encrypts a single hash of two blocks.
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(digest)  # noqa: S305


def derive_private_key(seed: bytes, info: bytes = b"") -> ec.EllipticCurvePrivateKey:
    """Derive a P-384 key; every seed gives a valid one."""
    number = int.from_bytes(HKDF(SHA256(), SCALAR_SIZE, None, info).derive(seed), "big")
    return ec.derive_private_key(number % (ORDER - 1) + 1, ec.SECP384R1())


def derive_cpak(guk: bytes, boot_hash: bytes) -> ec.EllipticCurvePrivateKey:
    """Derive the CCA platform attestation key, which is the same in debug states."""
    return derive_private_key(derive_seed(guk, _CPAK_LABEL, boot_hash))


def derive_rak(
    guk: bytes, boot_hash: bytes, lifecycle: int, slots: list[Slot]
) -> ec.EllipticCurvePrivateKey:
    """Derive the realm attestation key for these measurements and this lifecycle state."""
    seed = derive_seed(guk, _DAK_LABEL, boot_hash, lcs=lifecycle >> 12)
    return derive_private_key(seed, info=encode_slots(slots))


def derive_vhuk_a(huk: bytes, lifecycle: int, slots: list[Slot]) -> bytes:
    """Derive the virtual HUK of the firmware's signers."""
    authorities = b"".join(slot.signer_id + slot.sw_type.encode() for slot in slots)
    return derive_seed(huk, b"VHUK_A", authorities + _u32(lifecycle))


def derive_vhuk_m(huk: bytes, lifecycle: int, slots: list[Slot]) -> bytes:
    """Derive the virtual HUK of these measurements."""
    return derive_seed(huk, b"VHUK_M", encode_slots(slots) + _u32(lifecycle))


def encode_slots(slots: list[Slot]) -> bytes:
    """Return the measurements as one CBOR array of maps."""
    parts: list[Value] = [
        {
            SwComponentKey.TYPE.value: slot.sw_type,
            SwComponentKey.HASH_ALGORITHM.value: HASH_NAMES[slot.algorithm],
            SwComponentKey.MEASUREMENT.value: slot.value,
            SwComponentKey.VERSION.value: slot.version,
            SwComponentKey.SIGNER_ID.value: slot.signer_id,
        }
        for slot in slots
    ]
    return encode(parts)


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public key as an uncompressed SEC1 point, 97 bytes."""
    numbers = key.public_key().public_numbers()
    return b"\x04" + b"".join(n.to_bytes(SCALAR_SIZE, "big") for n in (numbers.x, numbers.y))


def instance_id(cpak: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the UEID that names the platform: 33 bytes."""
    return b"\x01" + hashlib.sha256(public_bytes(cpak)).digest()
