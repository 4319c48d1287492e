"""Make a signed token from claims in JSON and two private keys: any token, even an invalid one.

Missing claims that follow from the keys or the profile are filled in: the profiles, the realm's
key, and the platform's challenge that binds it.  A claim that is null stays out.
"""

from hashlib import new as new_hash
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.token.cbor import encode
from pyvmm.token.claims import HASH_SIZES, PlatformKey, RealmKey
from pyvmm.token.claimset import (
    PLATFORM_NAME,
    REALM_NAME,
    platform_payload,
    realm_payload,
)
from pyvmm.token.cose import Algorithm, Sign1, cose_key, protected, sig_structure
from pyvmm.token.ecdsa import public_point, sign
from pyvmm.token.generations import FORMS, Generation, RakEncoding
from pyvmm.token.make import RAK_HASH_ALGORITHM, cca_token
from pyvmm.token.report import Payload

PROFILE_NAME: Final = "token-profile"


def compile_token(
    claims: Json,
    cpak: EllipticCurvePrivateKey,
    rak: EllipticCurvePrivateKey,
    generation: Generation | None = None,
) -> bytes:
    """Return the token.

    Args:
        claims: as `pyvmm token show --json` prints them.
        cpak: signs the platform token.
        rak: signs the realm token.
        generation: the form of the token; by default, that of the claims.

    Raises:
        UserError: the JSON does not describe claims.
    """
    if not isinstance(claims, dict):
        raise UserError("the claims are not a JSON object")
    generation = generation or _generation(claims.get(PROFILE_NAME))
    platform, realm = _part(claims, PLATFORM_NAME), _part(claims, REALM_NAME)
    realm_claims = realm_payload(_given(realm))
    _fill_realm(realm_claims, realm, generation, rak)
    platform_claims = platform_payload(_given(platform))
    _fill_platform(platform_claims, platform, generation, realm_claims)
    return cca_token(_signed(platform_claims, cpak), _signed(realm_claims, rak), generation)


def _generation(name: Json) -> Generation:
    if name is None:
        return Generation.G1
    if name not in list(Generation):
        raise UserError(f"{PROFILE_NAME} is not one of {', '.join(Generation)}")
    return Generation(str(name))


def _part(claims: dict[str, Json], name: str) -> dict[str, Json]:
    part = claims.get(name)
    if not isinstance(part, dict):
        raise UserError(f"{name} is not a JSON object of claims")
    return part


def _given(part: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in part.items() if value is not None}


def _fill_realm(
    payload: Payload,
    part: dict[str, Json],
    generation: Generation,
    rak: EllipticCurvePrivateKey,
) -> None:
    form, point = FORMS[generation], public_point(rak)
    if form.realm and "cca-realm-profile" not in part:
        payload[int(RealmKey.PROFILE)] = form.realm.value
    if "cca-realm-public-key" not in part:
        is_raw = form.rak is RakEncoding.SEC1
        payload[int(RealmKey.RAK)] = point if is_raw else cose_key(point)
    if "cca-realm-public-key-hash-algo-id" not in part:
        payload[int(RealmKey.RAK_HASH_ALGORITHM)] = RAK_HASH_ALGORITHM


def _fill_platform(
    payload: Payload, part: dict[str, Json], generation: Generation, realm: Payload
) -> None:
    if "cca-platform-profile" not in part:
        payload[int(PlatformKey.PROFILE)] = FORMS[generation].platform.value
    key, name = realm.get(RealmKey.RAK), realm.get(RealmKey.RAK_HASH_ALGORITHM)
    if "cca-platform-challenge" not in part and isinstance(key, bytes) and name in HASH_SIZES:
        payload[int(PlatformKey.CHALLENGE)] = new_hash(str(name).replace("-", ""), key).digest()


def _signed(payload: Payload, key: EllipticCurvePrivateKey) -> bytes:
    algorithm = Algorithm.of_public(public_point(key))
    header, encoded = protected(algorithm), encode(payload)
    signature = sign(key, algorithm, sig_structure(header, encoded))
    return Sign1(header, encoded, signature).encode()
