"""The derivations, against values computed elsewhere, and what they depend on."""

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hes import keys
from hes.lifecycle import claim
from hes.measured_boot import Slot
from pyvmm.arch.psa import PsaHash
from pyvmm.token.claims import LifecycleState

#: From the tests of Islet's HES: group key, hash of the boot code, and the resulting instance id.
ISLET_GUK = bytes.fromhex("0123456789" * 6 + "0123")
ISLET_BOOT_HASH = bytes.fromhex("f15f953be50dad92c3b2aa3297e6a4a8d66d33638449ec1922b4a7924a7b3022")
ISLET_INSTANCE_ID = "011be9c336d7a70b661382934a260192351ac61d24e20d882f494abee87f8a1e98"

#: Of SLOT in the secured state, computed with a curve and an HKDF of ten lines each.
PINNED_RAK = "8439b6adc4f6c5231e3d7cbf129b8c6f41e03aad6908955881e391d4fbb45df8"  # SHA-256
PINNED_VHUK_A = "b84c070d0aaf55374de1f16fe95aa82134880c74e871f5b51b5c58722c6bd654"
PINNED_VHUK_M = "b3f6bc33abe8a2c3dcb8d0878cf18a8a34e6b2e12ce8bb6ddc8e28f18bf91703"

HUK = bytes(range(32))
SECURED = claim(LifecycleState.SECURED)
DEBUG = claim(LifecycleState.NON_CCA_PLATFORM_ROT_DEBUG)
SLOT = Slot(14, PsaHash.SHA_256, b"v" * 32, b"s" * 32, "1.0", "RMM", is_locked=True)


def test_cpak_is_that_of_islet() -> None:
    """The same group key and boot code give the same instance id."""
    cpak = keys.derive_cpak(ISLET_GUK, ISLET_BOOT_HASH)
    assert keys.instance_id(cpak).hex() == ISLET_INSTANCE_ID


def test_order_is_that_of_p384() -> None:
    """The largest private key is accepted, and no larger one."""
    ec.derive_private_key(keys.ORDER - 1, ec.SECP384R1())
    with pytest.raises(ValueError, match=r"(?i)key"):
        ec.derive_private_key(keys.ORDER, ec.SECP384R1())


def test_private_key_is_the_next_number_of_the_expansion() -> None:
    """As in RSE, for all seeds but one in 2**190, whose number is too large."""
    seed = b"seed" * 8
    number = int.from_bytes(HKDF(SHA256(), 48, None, b"info").derive(seed), "big")
    key = keys.derive_private_key(seed, b"info")
    assert key.private_numbers().private_value == number + 1


def test_public_bytes_are_an_uncompressed_point() -> None:
    """SEC1, with leading zeros where the numbers have some."""
    key = ec.derive_private_key(1, ec.SECP384R1())
    point = keys.public_bytes(key)
    again = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    assert again == key.public_key()
    assert len(point) == 97


def rak(lifecycle: int = SECURED, *slots: Slot) -> bytes:
    """Return the public key that attests realms."""
    return keys.public_bytes(keys.derive_rak(ISLET_GUK, ISLET_BOOT_HASH, lifecycle, list(slots)))


def test_realm_attestation_key_changes_with_each_measurement() -> None:
    """And with nothing else: same firmware, same key."""
    changes = [
        {"value": b"w" * 32},
        {"signer_id": b"t" * 32},
        {"version": "1.1"},
        {"sw_type": "RMM2"},
        {"algorithm": PsaHash.SHA_384},
    ]
    all_keys = [rak(SECURED, replace(SLOT, **change)) for change in changes]  # type: ignore[arg-type]
    all_keys += [rak(SECURED, SLOT), rak(SECURED), rak(SECURED, SLOT, SLOT), rak(DEBUG, SLOT)]
    assert len(set(all_keys)) == len(all_keys)
    assert rak(SECURED, SLOT) == rak(SECURED, replace(SLOT, is_locked=False))


def test_derivations_are_pinned() -> None:
    """An upgrade keeps the keys."""
    assert hashlib.sha256(rak(SECURED, SLOT)).hexdigest() == PINNED_RAK
    assert keys.derive_vhuk_a(HUK, SECURED, [SLOT]).hex() == PINNED_VHUK_A
    assert keys.derive_vhuk_m(HUK, SECURED, [SLOT]).hex() == PINNED_VHUK_M


def test_vhuk_a_survives_an_update_and_vhuk_m_does_not() -> None:
    """One depends on signers and types, the other on measurements; both on the lifecycle."""
    update = replace(SLOT, value=b"w" * 32, version="2.0")
    other = replace(SLOT, signer_id=b"t" * 32)
    assert keys.derive_vhuk_a(HUK, SECURED, [SLOT]) == keys.derive_vhuk_a(HUK, SECURED, [update])
    assert keys.derive_vhuk_m(HUK, SECURED, [SLOT]) != keys.derive_vhuk_m(HUK, SECURED, [update])
    for derive in (keys.derive_vhuk_a, keys.derive_vhuk_m):
        assert derive(HUK, SECURED, [SLOT]) != derive(HUK, SECURED, [other])
        assert derive(HUK, SECURED, [SLOT]) != derive(HUK, DEBUG, [SLOT])
        assert derive(HUK, SECURED, [SLOT]) != derive(bytes(32), SECURED, [SLOT])
