"""pyvmm attest: have an instance's guest ask for an attestation token."""

import base64
import secrets
from pathlib import Path
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import write_file
from pyvmm.cli.instances import directory, named, one, print_json
from pyvmm.cli.say import print_lines
from pyvmm.cli.units import Seconds, octets, plural
from pyvmm.vm.agent_protocol import CHALLENGE_SIZE
from pyvmm.vm.client import connect

_MIN_SIZE: Final = 32
_HELP = """Have the agent in a realm ask for an attestation token, and print it in base64.

The token answers the challenge: whoever verifies it makes one up, and looks for it in the token.

Exit code: 0 there it is, 2 there is no token to be had, 8 the instance is gone.
"""


class Attested(msgspec.Struct, frozen=True):
    """A token, base64, and the challenge that it answers, hexadecimal."""

    challenge: str
    token: str


@click.command(help=_HELP)
@named
@click.option(
    "--challenge",
    metavar="HEX",
    help="32 to 64 bytes; zeros follow one of less than 64  [default: random, told on stderr]",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="write it, raw"
)
@click.option(
    "--wait",
    "patience",
    type=Seconds(),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="how long the console may be silent while the guest boots, and then the token take",
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
    """Ask, and print the answer."""
    asked = _parse(challenge) if challenge is not None else secrets.token_bytes(CHALLENGE_SIZE)
    with connect(directory(), one(name, option)) as client:
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
