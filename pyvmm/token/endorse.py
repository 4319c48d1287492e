"""Endorsements: what a verifier should expect, as a file of reference values and as CoRIM.

Spec: draft-ietf-rats-corim-10; draft-ydb-rats-cca-endorsements-03 and -04.
"""

import json
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvmm.arch.strict_json import Json
from pyvmm.token.cbor import Tag, Value, encode
from pyvmm.token.claims import HASH_SIZES
from pyvmm.token.ecdsa import load_public
from pyvmm.token.reference import VERSION, ComponentValues, PlatformValues, RealmValues

Map = dict[int | str | bytes, Value]


class CorimDraft(StrEnum):
    """The draft of the CCA profiles that a CoRIM follows."""

    D03 = "03"  # as the Veraison verifier reads it
    D04 = "04"


_PLATFORM_PROFILES: Final = {
    CorimDraft.D03: "tag:arm.com,2025:cca_platform#1.0.0",
    CorimDraft.D04: "tag:arm.com,2025:endorsements/cca_platform#1.0.0",
}
_REALM_PROFILES: Final = {
    CorimDraft.D03: "tag:arm.com,2025:cca_realm#1.0.0",
    CorimDraft.D04: "tag:arm.com,2025:endorsements/cca_realm#1.0.0",
}


class CborTag(IntEnum):
    """CBOR tags in a CoRIM."""

    URI = 32
    CORIM = 501  # tagged-unsigned-corim-map
    COMID = 506  # tagged-concise-mid-tag
    UEID = 550
    PKIX_KEY = 554  # a public key in PEM
    BYTES = 560
    MASKED_VALUE = 563


class CorimKey(IntEnum):
    """Keys of corim-map."""

    ID = 0
    TAGS = 1
    PROFILE = 3


class ComidKey(IntEnum):
    """Keys of concise-mid-tag."""

    TAG_IDENTITY = 1
    TRIPLES = 4


class Triples(IntEnum):
    """Keys of triples-map."""

    REFERENCE = 0
    ATTEST_KEY = 3


class MeasurementValue(IntEnum):
    """Keys of measurement-values-map."""

    DIGESTS = 2
    RAW_VALUE = 4
    RAW_VALUE_MASK = 5  # deprecated since CoRIM has masked values
    NAME = 11
    CRYPTOKEYS = 13


_TAG_ID: Final = 0  # of tag-identity-map
_CLASS, _INSTANCE = 0, 1  # of environment-map
_CLASS_ID: Final = 0  # of class-map
_MKEY, _MVAL = 0, 1  # of measurement-map
_HASH_NAMES: Final = {size: name for name, size in HASH_SIZES.items()}


def public_pem(public: bytes) -> str:
    """Return a key, a SEC1 point, in PEM.

    Raises:
        ValueError: it is not a point on a curve.
    """
    key = load_public(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


# --- for pyvmm verify -------------------------------------------------------------------------


def reference_json(platform: PlatformValues, realm: RealmValues | None = None) -> str:
    """Return the file that `pyvmm verify --reference` reads."""
    root: dict[str, Json] = {"version": VERSION, "platform": _platform_json(platform)}
    if realm is not None:
        values = {"rim": realm.rim, "rpv": realm.rpv}
        root["realm"] = {name: value.hex() for name, value in values.items() if value is not None}
    return json.dumps(root, indent=2)


def _platform_json(platform: PlatformValues) -> Json:
    ids = {
        "implementation-id": platform.implementation_id,
        "instance-id": platform.instance_id,
        "config": platform.config,
    }
    values: dict[str, Json] = {name: value.hex() for name, value in ids.items() if value}
    if platform.cpak is not None:
        values["cpak"] = public_pem(platform.cpak)
    values["sw-components"] = [_component_json(component) for component in platform.components]
    return values


def _component_json(component: ComponentValues) -> Json:
    named: dict[str, Json] = (
        {"measurement-type": component.sw_type} if component.sw_type is not None else {}
    )
    return named | {
        "measurement-value": component.measurement.hex(),
        "signer-id": component.signer_id.hex(),
    }


# --- CoRIM ------------------------------------------------------------------------------------


def platform_corim(platform: PlatformValues, draft: CorimDraft) -> bytes:
    """Return the CoRIM of a platform: its software, its configuration and its key.

    Raises:
        ValueError: an id, the configuration or the key is missing.
    """
    if not (platform.implementation_id and platform.instance_id and platform.config):
        raise ValueError("the platform has no ids or no configuration")
    if platform.cpak is None:
        raise ValueError("the platform has no key")
    class_of_platform: Map = {_CLASS: _class(platform.implementation_id)}
    instance: Map = {**class_of_platform, _INSTANCE: Tag(CborTag.UEID, platform.instance_id)}
    key: Value = Tag(CborTag.PKIX_KEY, public_pem(platform.cpak))
    measurements: list[Value] = [
        *(_measurement("cca.software-component", _component(each)) for each in platform.components),
        _measurement("cca.platform-config", _config(platform.config, draft)),
    ]
    return _corim(
        _PLATFORM_PROFILES[draft],
        {
            Triples.REFERENCE.value: [[class_of_platform, measurements]],
            Triples.ATTEST_KEY.value: [[instance, [key]]],
        },
    )


def realm_corim(realm: RealmValues, draft: CorimDraft) -> bytes:
    """Return the CoRIM of a realm: its measurements and its personalization value.

    Raises:
        ValueError: the RIM is missing.
    """
    if realm.rim is None:
        raise ValueError("the realm has no initial measurement")
    measured = {"cca.rim": realm.rim, **{f"cca.rem{n}": rem for n, rem in enumerate(realm.rems)}}
    measurements: list[Value] = [
        _measurement(name, {MeasurementValue.DIGESTS.value: _digests(value)})
        for name, value in measured.items()
        if value is not None
    ]
    if realm.rpv is not None:
        rpv: Value = Tag(CborTag.BYTES, realm.rpv)
        measurements.append(_measurement("cca.rpv", {MeasurementValue.RAW_VALUE.value: rpv}))
    environment: Map = {_CLASS: _class(realm.rim)}
    return _corim(_REALM_PROFILES[draft], {Triples.REFERENCE.value: [[environment, measurements]]})


def _class(class_id: bytes) -> Map:
    return {_CLASS_ID: Tag(CborTag.BYTES, class_id)}


def _measurement(name: str, values: Map) -> Map:
    return {_MKEY: name, _MVAL: values}


def _config(config: bytes, draft: CorimDraft) -> Map:
    """Return the configuration, with a mask that covers every bit.

    Both drafts have a masked value; Veraison's profile of draft -03 requires value and mask in
    separate members.
    """
    mask = b"\xff" * len(config)
    if draft is CorimDraft.D03:
        return {
            MeasurementValue.RAW_VALUE.value: Tag(CborTag.BYTES, config),
            MeasurementValue.RAW_VALUE_MASK.value: mask,
        }
    return {MeasurementValue.RAW_VALUE.value: Tag(CborTag.MASKED_VALUE, [config, mask])}


def _component(component: ComponentValues) -> Map:
    signer: Value = Tag(CborTag.BYTES, component.signer_id)
    named: Map = {MeasurementValue.NAME.value: component.sw_type} if component.sw_type else {}
    return {
        MeasurementValue.DIGESTS.value: _digests(component.measurement),
        **named,
        MeasurementValue.CRYPTOKEYS.value: [signer],
    }


def _digests(value: bytes) -> Value:
    return [[_HASH_NAMES[len(value)], value]]


def _corim(profile: str, triples: Map) -> bytes:
    """Wrap triples; derive the ids from the content, so that equal contents give equal files."""
    content = sha256(encode(triples)).hexdigest()
    tag_id, corim_id = (
        uuid5(NAMESPACE_URL, f"{profile}:{w}:{content}").bytes for w in ("tag", "rim")
    )
    comid: Map = {ComidKey.TAG_IDENTITY.value: {_TAG_ID: tag_id}, ComidKey.TRIPLES.value: triples}
    corim: Map = {
        CorimKey.ID.value: corim_id,
        CorimKey.TAGS.value: [Tag(CborTag.COMID, encode(comid))],
        CorimKey.PROFILE.value: Tag(CborTag.URI, profile),
    }
    return encode(Tag(CborTag.CORIM, corim))
