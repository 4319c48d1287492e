"""pyvmm token: inspect CCA attestation tokens; create test tokens."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvmm.arch import strict_json
from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.arch.user_file import write_file
from pyvmm.cli.common.say import print_json_text, print_lines, say
from pyvmm.cli.verify import read_input
from pyvmm.token.cbor import Malformed, Value, ignore
from pyvmm.token.claims import (
    PLATFORM_CLAIMS,
    REALM_CLAIMS,
    REALM_PATHS,
    SW_COMPONENT,
    Claim,
    RealmKey,
    SwComponentKey,
)
from pyvmm.token.claimset import PLATFORM_NAME, REALM_NAME, platform_json, realm_json
from pyvmm.token.compile import PROFILE_NAME, compile_token
from pyvmm.token.cose import SEC1_UNCOMPRESSED, parse_cose_key
from pyvmm.token.diag import diagnose
from pyvmm.token.ecdsa import load_public
from pyvmm.token.generations import Generation
from pyvmm.token.intake import token_bytes
from pyvmm.token.keys import load_private_key, read_key
from pyvmm.token.parse import Token, parse
from pyvmm.token.report import Check, Kind, Payload, Report
from pyvmm.token.trust import TrustStore
from pyvmm.token.verify import verify

_FILE: Final = click.Path(path_type=Path, readable=False)  # opening it gives a better error
_MALFORMED: Final = 3
_NAME_WIDTH: Final = 40  # of the known claims; unknown ones may be longer
_FORMATS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "raw": bytes,
    "hex": lambda data: data.hex().encode() + b"\n",
    "base64": lambda data: b64encode(data) + b"\n",
}
_KEY_CHECKS: Final = {Check.TRUST_ANCHOR, Check.PLATFORM_SIGNATURE, Check.LIFECYCLE}

_output = click.option(
    "-o", "--output", type=_FILE, help="file to write  [default: standard output]"
)
_format = click.option(
    "--format",
    "form",
    type=click.Choice([*_FORMATS]),
    default="raw",
    show_default=True,
    help="format of the output",
)


@click.group(help="Inspect CCA attestation tokens; create test tokens.")
def token() -> None:
    """Group the commands for tokens."""


# --- show -------------------------------------------------------------------------------------

_SHOW_HELP = """Show the claims of an unverified token.

TOKEN - is standard input. --json prints the input format of `pyvmm token compile`, with the names
of the Veraison tools.

Exit code: 0 success, 2 bad input, 3 malformed.
"""


@token.command(help=_SHOW_HELP)
@click.argument("source", metavar="TOKEN")
@click.option("--cbor-diag", is_flag=True, help="print CBOR diagnostic notation")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def show(*, source: str, cbor_diag: bool, as_json: bool) -> int:  # noqa: D103  the help says it
    try:
        data = token_bytes(read_input(source))
        text = diagnose(data) if cbor_diag else ""
    except Malformed as error:
        return _malformed(error)
    report = verify(data, TrustStore())
    if cbor_diag:
        print_lines(*text.splitlines())
    elif as_json:
        print_json_text(json.dumps(_claims(report), indent=2))
    else:
        _print(report)
    for finding in report.findings:
        if finding.check not in _KEY_CHECKS:
            say(str(finding))
    return _MALFORMED if Kind.MALFORMED in report.kinds() else 0


def _malformed(error: Malformed) -> int:
    say(str(error), "error")
    return _MALFORMED


def _claims(report: Report) -> Json:
    claims: dict[str, Json] = {PROFILE_NAME: report.generation}
    if report.platform is not None:
        claims[PLATFORM_NAME] = platform_json(report.platform)
    if report.realm is not None:
        claims[REALM_NAME] = realm_json(report.realm)
    return claims


def _print(report: Report) -> None:
    """Print one line per claim, however long, so that a key can be copied."""
    parts = (("platform", report.platform, PLATFORM_CLAIMS), ("realm", report.realm, REALM_CLAIMS))
    for name, payload, claims in parts:
        rows = list(_rows(payload or {}, claims))
        width = min(max((len(claim) for claim, _ in rows), default=0), _NAME_WIDTH)
        print_lines(f"{name} token")
        for claim, value in rows:
            print_lines(f"{claim:<{width}}  {value}".rstrip())
    print_lines(f"profile: {report.generation or 'not supported'}")


def _rows(payload: Payload, claims: tuple[Claim, ...]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each claim."""
    names = {claim.key: claim.name for claim in claims}
    for key, value in payload.items():
        name = names.get(key, repr(key)) if isinstance(key, int) else repr(key)
        if name == "cca-platform-sw-components" and isinstance(value, list):
            yield name, f"{len(value)}:"
            for component in value:
                yield from _component(component)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield f"{name}[{index}]", _text(item)
        else:
            yield name, _text(value)


def _component(component: Value) -> Iterator[tuple[str, str]]:
    if not isinstance(component, dict):
        yield "", _text(component)
        return
    for member in SW_COMPONENT.members:
        if member.key in component:
            indent = "  - " if member.key == SwComponentKey.TYPE else "    "
            yield indent + member.name, _text(component[member.key])


def _text(value: Value) -> str:
    """Return a value in full."""
    match value:
        case bytes():
            return value.hex()
        case str():
            return value
        case int() if not isinstance(value, bool) and value > 9:
            return f"{value} (0x{value:x})"
        case _:
            return repr(value)


# --- extract ----------------------------------------------------------------------------------

_PARTS: Final = ("platform", "realm", "platform-claims", "realm-claims", "rak")
_EXTRACT_HELP = """Extract a part of a token.

The parts are the COSE_Sign1 of the platform or the realm, their claims in CBOR, and the realm
attestation key in PEM. TOKEN - is standard input.

Exit code: 0 success, 2 bad input, 3 malformed.
"""


@token.command(help=_EXTRACT_HELP)
@click.argument("part", type=click.Choice(_PARTS))
@click.argument("source", metavar="TOKEN")
@_output
@_format
def extract(*, part: str, source: str, output: Path | None, form: str) -> int:  # noqa: D103
    report = Report()
    try:
        data = _part(part, parse(token_bytes(read_input(source)), report))
    except Malformed as error:
        return _malformed(error)
    if data is None:
        for finding in report.findings:
            say(str(finding))
        return _MALFORMED
    _write(data, output, form)
    return 0


def _part(name: str, parts: Token) -> bytes | None:
    if name == "rak":
        return _rak(parts)
    part = parts.platform if name.startswith("platform") else parts.realm
    if not name.endswith("-claims"):
        return part.encoded
    return part.sign1.payload if part.sign1 is not None else None


def _rak(parts: Token) -> bytes:
    """Return the realm attestation key in PEM."""
    encoded = parts.realm.payload.get(RealmKey.RAK) if parts.realm.payload is not None else None
    path = REALM_PATHS[RealmKey.RAK]
    if not isinstance(encoded, bytes):
        raise Malformed(path, "absent, or not a byte string")
    is_raw = encoded[:1] == bytes([SEC1_UNCOMPRESSED])
    try:
        key = load_public(
            encoded if is_raw else parse_cose_key(encoded, path=path, tolerate=ignore)
        )
    except ValueError as error:
        raise Malformed(path, f"not a point on its curve: {error}") from None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- compile ----------------------------------------------------------------------------------

_COMPILE_HELP = """Make a signed token from claims in JSON.

CLAIMS has the format of `pyvmm token show --json`; - is standard input. The claims may be invalid.
A missing profile, realm key or platform challenge (which binds the key) is filled in; null omits
it.
"""


@token.command(name="compile", help=_COMPILE_HELP)
@click.argument("claims", metavar="CLAIMS")
@click.option("--cpak", type=_FILE, required=True, help="private key that signs for the platform")
@click.option("--rak", type=_FILE, required=True, help="private key that signs for the realm")
@click.option(
    "--profile",
    type=click.Choice([generation.value for generation in Generation]),
    help="form of the token  [default: that of the claims, or g1]",
)
@_output
@_format
def compile_(  # noqa: D103  the help says it
    *, claims: str, cpak: Path, rak: Path, profile: str | None, output: Path | None, form: str
) -> None:
    try:
        values = strict_json.loads(read_input(claims))
    except ValueError as error:
        raise UserError(f"{claims} is not JSON: {error}") from None
    data = compile_token(
        values,
        load_private_key(read_key(cpak), str(cpak)),
        load_private_key(read_key(rak), str(rak)),
        Generation(profile) if profile is not None else None,
    )
    _write(data, output, form)


def _write(data: bytes, output: Path | None, form: str) -> None:
    """Write to a file, or to standard output."""
    data = _FORMATS[form](data)
    if output is None:
        click.echo(data, nl=False)
        return
    try:
        write_file(output, data)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None
