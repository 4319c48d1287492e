"""Regenerate the files of test vectors: `python -m tests.token.vectors.make`.

Each file holds the vectors of a generation; keys and reference values stand beside them.
"""

import json
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvmm.token.cose import Algorithm
from pyvmm.token.ecdsa import public_point
from pyvmm.token.generations import Generation
from tests.token.draft import (
    COMPONENTS,
    CONFIG,
    IMPLEMENTATION_ID,
    INSTANCE_ID,
    REMS,
    RIM,
    RPV,
    Draft,
)
from tests.token.keys import key
from tests.token.vectors import accepted, malformed, refused
from tests.token.vectors.cases import Case

HERE = Path(__file__).parent
CASES = [*accepted.CASES, *malformed.CASES, *refused.CASES]


def files() -> dict[str, bytes]:
    """Return the files: name to content."""
    cpak = key("cpak")
    made = {f"{generation}.json": _json(_vectors(generation)) for generation in Generation}
    made |= {
        "cpak.pem": _public(cpak, Encoding.PEM),
        "cpak.der": _public(cpak, Encoding.DER),
        "cpak.jwk": _json(_jwk(public_point(cpak))),
        "cpak-es256.pem": _public(key("cpak", Algorithm.ES256), Encoding.PEM),
        "cpak-es512.pem": _public(key("cpak", Algorithm.ES512), Encoding.PEM),
        "other.pem": _public(key("other"), Encoding.PEM),
        "store/other.pem": _public(key("other"), Encoding.PEM),
        "reference.json": _json(_reference()),
    }
    return made


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _vectors(generation: Generation) -> list[dict[str, object]]:
    return [_vector(case, generation) for case in CASES if generation in case.generations]


def _vector(case: Case, generation: Generation) -> dict[str, object]:
    draft = Draft.good(generation)
    case.spoil(draft)
    return {
        "name": case.name,
        "arguments": " ".join(case.arguments),
        "exit-code": case.exit_code,
        "failures": sorted(case.failures),
        "warnings": sorted(case.warnings),
        "token": b64encode(draft.encode()).decode(),
    }


def _public(private: EllipticCurvePrivateKey, encoding: Encoding) -> bytes:
    return private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def _jwk(point: bytes) -> dict[str, str]:
    x, y = (urlsafe_b64encode(c).decode().rstrip("=") for c in (point[1:49], point[49:]))
    return {"kty": "EC", "crv": "P-384", "x": x, "y": y}


def _reference() -> dict[str, object]:
    return {
        "version": 1,
        "platform": {
            "implementation-id": IMPLEMENTATION_ID.hex(),
            "instance-id": INSTANCE_ID.hex(),
            "config": CONFIG.hex(),
            "sw-components": [
                {
                    "measurement-type": part.sw_type,
                    "measurement-value": part.measurement.hex(),
                    "signer-id": part.signer_id.hex(),
                    "version": part.version,
                }
                for part in COMPONENTS
            ],
        },
        "realm": {
            "rim": RIM.hex(),
            "rems": [REMS[0].hex(), REMS[1].hex(), None, None],
            "rpv": RPV.hex(),
        },
    }


def main() -> None:
    """Write the files."""
    for name, data in files().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
