"""pyvmm hes: look at the root of trust, and drive it through its life."""

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
from pyvmm.cli.say import print_json_text, print_lines, say
from pyvmm.root_of_trust import MAX_BUNDLE, BootEvent, HesStatus, RootOfTrust, make_bundles

_MAX_COUNTER: Final = (1 << 32) - 1
_ADVANCE: Final = re.compile(r"([a-z-]+)=(\d{1,10})")
_as_json = click.option("--json", "as_json", is_flag=True, help="for programs")


@click.group(
    help="Look at the root of trust (HES), and drive it: its keys, measurements and lifecycle."
)
@click.option(
    "--hes-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="its state  [default: $PYVMM_HES_DIR, or the user's]",
)
@click.pass_context
def hes(context: click.Context, hes_dir: Path | None) -> None:
    """Group what there is to do with it."""
    context.obj = lambda: context.with_resource(RootOfTrust(hes_dir))


Start = Callable[[], RootOfTrust]


@hes.command(help="Show identity, lifecycle and the machines that are on.")
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
        ("machines", ", ".join(f"process {pid}" for pid in found.machines) or "none is on"),
    ]


@hes.command(
    help="Have provisioning bundles taken, in this order: the chip maker's, the device maker's."
)
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--make",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="write keys and bundles of new makers there instead",
)
@_as_json
@click.pass_obj
def provision(
    start: Start, bundles: tuple[Path, ...], directory: Path | None, as_json: bool
) -> None:
    """Provision, or make what to provision with."""
    if bool(bundles) == bool(directory):
        raise UserError("give the bundles to take, or --make DIRECTORY")
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
        state = states[printable(str(path))] = root_of_trust.provision(content)
        if not as_json:
            print_lines(f"{path}: {state}")
    if as_json:
        print_json_text(json.dumps(states, indent=2))


@hes.command(help="Show the lifecycle state and what may follow it; with STATE, go there.")
@click.argument("state", required=False)
@click.option("--yes", is_flag=True, help="decommission: the keys are gone for good")
@_as_json
@click.pass_obj
def lifecycle(start: Start, state: str | None, yes: bool, as_json: bool) -> None:
    """Show or change the state; machines that are on keep theirs."""
    if state == "decommissioned" and not yes:
        raise UserError("decommissioned is for ever, and its keys are erased: add --yes")
    root_of_trust = start()
    if state is not None:
        root_of_trust.set_lifecycle(state)
    found = root_of_trust.status()
    if as_json:
        told = {"lifecycle": found.lifecycle, "successors": found.successors}
        print_json_text(json.dumps(told, indent=2))
        return
    print_lines(found.lifecycle)
    for successor in () if state is not None else found.successors:
        print_lines(f"-> {successor}")


@hes.command(help="Show what a boot measures now, or what the machine of process PID has measured.")
@click.argument("pid", type=click.IntRange(min=1, max=_MAX_COUNTER), required=False)
@_as_json
@click.pass_obj
def log(start: Start, pid: int | None, as_json: bool) -> None:
    """Print the event log."""
    root_of_trust = start()
    if pid is None:
        from pyvmm.platform import boot_log  # noqa: PLC0415  the others need no machine

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


@hes.command(help="Show the non-volatile counters; with NAME=VALUE, advance some for good.")
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
        raise UserError(f"{text}: give NAME=VALUE, a value of at most {_MAX_COUNTER}")
    return match[1], int(match[2])
