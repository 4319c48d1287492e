"""pyvmm hes: inspect and control the root of trust."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.text import printable
from pyvmm.arch.user_file import read_file
from pyvmm.cli.common.say import print_json_text, print_lines, say
from pyvmm.root_of_trust import MAX_BUNDLE, BootEvent, HesStatus, RootOfTrust, make_bundles

_MAX_COUNTER: Final = (1 << 32) - 1
_ADVANCE: Final = re.compile(r"([a-z-]+)=(\d{1,10})")
_as_json = click.option("--json", "as_json", is_flag=True, help="print JSON")


@click.group(help="Inspect and control the root of trust (HES): keys, measurements and lifecycle.")
@click.option(
    "--hes-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="directory of its state  [default: $PYVMM_HES_DIR, or the user's]",
)
@click.pass_context
def hes(context: click.Context, hes_dir: Path | None) -> None:
    """Group the commands for the HES."""
    context.obj = lambda: context.with_resource(RootOfTrust(hes_dir))


Start = Callable[[], RootOfTrust]


@hes.command(help="Show identity, lifecycle and running machines.")
@_as_json
@click.pass_obj
def status(start: Start, as_json: bool) -> None:
    """Print the status."""
    found = start().status()
    if as_json:
        print_json_text(
            json.dumps(
                dataclasses.asdict(found), default=lambda path: printable(str(path)), indent=2
            )
        )
        return
    for name, value in _lines(found):
        print_lines(f"{name:18} {value}")


def _lines(found: HesStatus) -> list[tuple[str, str]]:
    cpak = found.directory / "cpak.pem"
    return [
        ("directory", str(found.directory)),
        ("lifecycle", found.lifecycle),
        ("instance id", found.instance_id or "none: not provisioned"),
        ("implementation id", found.implementation_id),
        ("configuration", found.config),
        ("verification", found.verification_service or "no service named"),
        ("CPAK", str(cpak) if cpak.exists() else "none"),
        ("machines", ", ".join(f"process {pid}" for pid in found.machines) or "none running"),
    ]


_PROVISION_HELP = """Provision the HES with bundles.

The chip maker's bundle comes first, then the device maker's.
"""


@hes.command(help=_PROVISION_HELP)
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--make",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="instead, write keys and bundles of new test makers to this directory",
)
@_as_json
@click.pass_obj
def provision(
    start: Start, bundles: tuple[Path, ...], directory: Path | None, as_json: bool
) -> None:
    """Provision the HES, or make test bundles."""
    if bool(bundles) == bool(directory):
        raise UserError("no bundle given: give BUNDLES, or --make DIRECTORY")
    if directory is not None:
        made = [str(path) for path in make_bundles(directory)]
        if as_json:
            print_json_text(json.dumps([*map(printable, made)], indent=2))
        else:
            click.echo("\n".join(made))
        return
    contents = [read_file(each, "bundle", MAX_BUNDLE, takes_pipe=True) for each in bundles]
    root_of_trust, states = start(), {}
    for path, content in zip(bundles, contents, strict=True):
        try:
            state = states[printable(str(path))] = root_of_trust.provision(content)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if not as_json:
            print_lines(f"{path}: {state}")
    if as_json:
        print_json_text(json.dumps(states, indent=2))


_LIFECYCLE_HELP = """Show or change the lifecycle state.

Without STATE, print the current state and the states that can follow it.
"""


@hes.command(help=_LIFECYCLE_HELP)
@click.argument("state", required=False)
@click.option("--yes", is_flag=True, help="decommission, which erases the keys permanently")
@_as_json
@click.pass_obj
def lifecycle(start: Start, state: str | None, yes: bool, as_json: bool) -> None:
    """Show or change the state; running machines keep theirs."""
    if state == "decommissioned" and not yes:
        raise UserError("decommissioning is permanent and erases the keys: confirm with --yes")
    root_of_trust = start()
    if state is not None:
        root_of_trust.set_lifecycle(state)
    found = root_of_trust.status()
    if as_json:
        shown = {"lifecycle": found.lifecycle, "successors": found.successors}
        print_json_text(json.dumps(shown, indent=2))
        return
    print_lines(found.lifecycle)
    for successor in () if state is not None else found.successors:
        print_lines(f"-> {successor}")


_LOG_HELP = """Show the measurements of a boot.

With PID, of the running machine in that process; otherwise, of a machine that would boot now.
"""


@hes.command(help=_LOG_HELP)
@click.argument("pid", type=click.IntRange(min=1, max=_MAX_COUNTER), required=False)
@_as_json
@click.pass_obj
def log(start: Start, pid: int | None, as_json: bool) -> None:
    """Print the event log."""
    root_of_trust = start()
    if pid is None:
        from pyvmm.platform import boot_log  # noqa: PLC0415  other commands need no machine

        events = boot_log(root_of_trust)
        if root_of_trust.notice:
            say(root_of_trust.notice)
    else:
        events = root_of_trust.log(pid)
    if as_json:
        print_json_text(json.dumps([dataclasses.asdict(event) for event in events], indent=2))
        return
    for event in events:
        print_lines(*_event_lines(event))


def _event_lines(event: BootEvent) -> list[str]:
    locked = "locked" if event.is_locked else "open"
    return [
        f"slot {event.slot:2} {event.sw_type or '-'} {event.version or '-'}, {locked}",
        f"    signer {event.signer_id}",
        f"    {event.algorithm} {event.digest}",
        f"    value {event.value}",
    ]


_COUNTERS_HELP = """Show or advance the non-volatile counters.

NAME=VALUE advances a counter permanently.
"""


@hes.command(help=_COUNTERS_HELP)
@click.argument("advance", nargs=-1, metavar="[NAME=VALUE]...")
@_as_json
@click.pass_obj
def counters(start: Start, advance: tuple[str, ...], as_json: bool) -> None:
    """Show or advance the counters."""
    wanted = [_parse_advance(text) for text in advance]
    root_of_trust = start()
    for name, value in wanted:
        root_of_trust.advance_counter(name, value)
    found = root_of_trust.status().counters
    if as_json:
        print_json_text(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print_lines(f"{name:12} {value}")


def _parse_advance(text: str) -> tuple[str, int]:
    match = _ADVANCE.fullmatch(text)
    if match is None or int(match[2]) > _MAX_COUNTER:
        raise UserError(f"{text}: give NAME=VALUE, with a value of at most {_MAX_COUNTER}")
    return match[1], int(match[2])
