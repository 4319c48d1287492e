"""pyvmm attest: get an attestation token from an instance's guest."""

import base64
import secrets
from pathlib import Path
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import write_file
from pyvmm.cli.common.instances import directory, instance_name, named, print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.cli.common.units import Seconds, octets, plural
from pyvmm.vm.agent.protocol import CHALLENGE_SIZE
from pyvmm.vm.control.client import connect

_MIN_SIZE: Final = 32
_HELP = """Get an attestation token through the agent in a realm, and print it in base64.

The verifier of the token chooses the challenge, and checks that the token contains it.

Exit code: 0 success, 2 no token available, 8 the instance has ended.
"""


class Attested(msgspec.Struct, frozen=True):
    """A token in base64, and its challenge in hexadecimal."""

    challenge: str
    token: str


@click.command(help=_HELP)
@named
@click.option(
    "--challenge",
    metavar="HEX",
    help="32 to 64 bytes, padded with zeros to 64  [default: random, printed on stderr]",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="write the raw token"
)
@click.option(
    "--wait",
    "patience",
    type=Seconds(),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="how long to wait while the booting guest's console is silent, then for the token",
)
@click.option("--json", "wants_json", is_flag=True, help="print challenge and token as JSON")
def attest(
    name: str | None,
    option: str | None,
    *,
    challenge: str | None,
    output: Path | None,
    patience: float,
    wants_json: bool,
) -> None:
    """Get a token and print it."""
    asked = _parse(challenge) if challenge is not None else secrets.token_bytes(CHALLENGE_SIZE)
    with connect(directory(), instance_name(name, option)) as client:
        client.patience = None
        token = client.api.attest(asked.ljust(CHALLENGE_SIZE, b"\0"), patience=patience)
    if challenge is None and not wants_json:
        click.echo(f"challenge: {asked.hex()}", err=True)
    text = base64.b64encode(token).decode()
    if wants_json:
        print_json(Attested(asked.hex(), text))
    elif output is None:
        print_lines(text)
    if output is not None:
        _write(output, token)


def _parse(text: str) -> bytes:
    challenge = octets("--challenge", text)
    if not _MIN_SIZE <= len(challenge) <= CHALLENGE_SIZE:
        what = plural(len(challenge), "byte")
        raise UserError(f"--challenge has {what}: give {_MIN_SIZE} to {CHALLENGE_SIZE}")
    return challenge


def _write(path: Path, token: bytes) -> None:
    try:
        write_file(path, token)
    except OSError as error:
        raise UserError(f"-o {path}: {error.strerror}: choose another file") from None
