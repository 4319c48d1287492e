"""pyvmm verify: verify a CCA attestation token."""

import json
import sys
import time
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.arch.user_file import read_start
from pyvmm.cli.common.say import print_json_text, print_lines
from pyvmm.cli.common.units import octets, plural
from pyvmm.scripting.verification import trust_for, verify_text
from pyvmm.token.appraise import Policy
from pyvmm.token.ar4si import Category, Vector, status_of
from pyvmm.token.claims import CHALLENGE_SIZE, HASH_SIZES, NUM_REMS, RPV_SIZE
from pyvmm.token.ear import PLATFORM_SUBMOD, REALM_SUBMOD, ear, signed, vectors_of, verdict
from pyvmm.token.generations import Generation
from pyvmm.token.intake import MAX_INPUT
from pyvmm.token.keys import load_private_key, read_key
from pyvmm.token.reference import RealmValues, ReferenceValues
from pyvmm.token.report import Check, Kind, Report

_FILE = click.Path(path_type=Path, readable=False)  # opening it gives a better error
_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)
_HELP = """Verify a CCA attestation token: raw, hexadecimal or base64; TOKEN - is standard input.

Without --cpak and --trust-store, the key comes from the reference file, or else from this machine's
HES.

Exit code: 0 verified, 1 not authentic, 2 bad input, 3 malformed or unsupported profile,
4 authentic but refused: not as expected.
"""


@click.command(help=_HELP)
@click.argument("source", metavar="TOKEN")
@click.option("--cpak", type=_FILE, help="the platform's public key: PEM, DER or JWK")
@click.option(
    "--trust-store",
    "stores",
    type=_DIRECTORY,
    multiple=True,
    help="directory of keys and reference files; the token's platform selects one",
)
@click.option("--challenge", metavar="HEX", help="the challenge; padded with zeros to 64 bytes")
@click.option("--reference", type=_FILE, help="reference values, from pyvmm endorse")
@click.option("--rim", metavar="HEX", help="the realm's initial measurement, from pyvmm measure")
@click.option("--rem", "rems", metavar="N=HEX", multiple=True, help="extensible measurement N")
@click.option("--rpv", metavar="HEX", help="personalization value; padded with zeros to 64 bytes")
@click.option(
    "--profile",
    "profiles",
    type=click.Choice([generation.value for generation in Generation]),
    multiple=True,
    help="accept only tokens of this profile",
)
@click.option("--strict", is_flag=True, help="refuse a token that gives warnings")
@click.option("--allow-debug", is_flag=True, help="accept a platform in a debug state")
@click.option("--json", "as_json", is_flag=True, help="print the result as an EAR, in JSON")
@click.option("--ear-key", type=_FILE, help="print the EAR as a JWT, signed with this private key")
def verify(  # noqa: D103  the help says it
    *,
    source: str,
    cpak: Path | None,
    stores: tuple[Path, ...],
    challenge: str | None,
    reference: Path | None,
    rim: str | None,
    rems: tuple[str, ...],
    rpv: str | None,
    profiles: tuple[str, ...],
    strict: bool,
    allow_debug: bool,
    as_json: bool,
    ear_key: Path | None,
) -> int:
    values = ReferenceValues.load(reference) if reference is not None else ReferenceValues()
    realm = _realm_values(values.realm, rim, rems, rpv)
    policy = Policy(
        challenge=_padded("--challenge", challenge, CHALLENGE_SIZE),
        reference=replace(values, realm=realm),
        generations=frozenset(map(Generation, profiles or Generation)),
        is_strict=strict,
        allow_debug=allow_debug,
    )
    trust = trust_for(cpak, stores, values)
    signer = load_private_key(read_key(ear_key), str(ear_key)) if ear_key is not None else None
    report = verify_text(read_input(source), trust, policy)
    if signer is not None:
        click.echo(signed(_ear(report, policy), signer))
    elif as_json:
        print_json_text(json.dumps(_ear(report, policy), indent=2))
    else:
        _show(report, policy)
    return report.exit_code


def read_input(source: str) -> bytes:
    """Return the content of a file, or of standard input.

    Raises:
        UserError: it cannot be read.
    """
    if source == "-":
        return sys.stdin.buffer.read(MAX_INPUT + 1)
    return read_start(Path(source), "token", MAX_INPUT + 1, takes_pipe=True)


# --- options ----------------------------------------------------------------------------------


def _realm_values(
    values: RealmValues, rim: str | None, rems: tuple[str, ...], rpv: str | None
) -> RealmValues:
    """Return the expected realm values: from the options, or else from the reference file."""
    expected = list(values.rems)
    for rem in rems:
        index, _, text = rem.partition("=")
        if index not in map(str, range(NUM_REMS)):
            raise UserError(f"--rem {rem}: give a number (0 to {NUM_REMS - 1}) and a value: 0=00ff")
        expected[int(index)] = _digest(f"--rem {index}", text)
    return RealmValues(
        _digest("--rim", rim) if rim is not None else values.rim,
        tuple(expected),
        _padded("--rpv", rpv, RPV_SIZE) or values.rpv,
    )


def _digest(option: str, text: str) -> bytes:
    data = octets(option, text)
    if len(data) not in HASH_SIZES.values():
        *sizes, largest = map(str, sorted({*HASH_SIZES.values()}))
        wanted = f"{', '.join(sizes)} or {largest}"
        raise UserError(f"{option} has {plural(len(data), 'byte')}: give {wanted}")
    return data


def _padded(option: str, text: str | None, size: int) -> bytes | None:
    if text is None:
        return None
    data = octets(option, text)
    if len(data) > size:
        raise UserError(f"{option} has {plural(len(data), 'byte')}: the limit is {size}")
    return data.ljust(size, b"\0")


# --- output -----------------------------------------------------------------------------------


def _ear(report: Report, policy: Policy) -> dict[str, Json]:
    return ear(report, policy, now=int(time.time()), build=installed_version("pyvmm"))


def _show(report: Report, policy: Policy) -> None:
    for check in Check:
        outcome = report.outcomes[check].value
        print_lines(f"{outcome:8} {check.value}")
        for finding in report.findings:
            if finding.check is check:
                mark = "warning: " if finding.kind is Kind.WARNING else ""
                print_lines(f"         {mark}{finding}")
    vectors = vectors_of(report, policy)
    _show_vector("platform", vectors[PLATFORM_SUBMOD])
    _show_vector("realm", vectors[REALM_SUBMOD])
    profile = f" (profile {report.generation})" if report.generation else ""
    print_lines(f"{verdict(report)}{profile}")


def _show_vector(part: str, vector: Vector) -> None:
    claims = [f"{c.value} {vector[c].name.lower()} ({vector[c]:d})" for c in Category if vector[c]]
    if len({*vector.values()}) == 1:
        claims = [vector[Category.HARDWARE].name.lower()]
    print_lines(f"{part}: {status_of(vector).value}: {', '.join(claims)}")
