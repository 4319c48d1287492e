"""pyvmm create: create an instance without starting it."""

from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import check_open_files, shortage
from pyvmm.arch.text import defect, printable
from pyvmm.cli.common.instances import code_of, directory, print_json
from pyvmm.cli.common.options import guest_options, vm_options
from pyvmm.cli.common.owner import Owner
from pyvmm.cli.common.progress import Bar
from pyvmm.cli.common.say import say, say_lines
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.daemon import Message, Tell, spawn
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.name import check_name
from pyvmm.vm.options import VmOptions

_HELP = """Create an instance in its own process; `pyvmm start` starts it.

When the command returns, the state of the instance is NEW: a realm is built and measured, a normal
VM is loaded. KERNEL is the same as --kernel. Without a kernel, it is a tiny built-in guest.

Exit code: 0 created, 2 bad input, 6 the guest could not be created.
"""


@click.command(help=_HELP)
@click.argument("instance", metavar="NAME")
@guest_options
@click.option("--json", "wants_json", is_flag=True, help="print the instance's status as JSON")
def create(  # noqa: D103  the help says it
    *, instance: str, positional: Path | None, wants_json: bool, **asked: object
) -> int:
    if asked["name"] not in {None, instance}:
        raise UserError(f"two names given, {instance} and {asked['name']}: give one")
    asked["name"] = check_name(instance)
    place = directory()
    create_instance(vm_options(positional, asked), place)
    if wants_json:
        print_json(place.find(instance))
    return ExitCode.OK


def create_instance(options: VmOptions, place: Directory) -> None:
    """Create an instance; return when its state is new.

    Raises:
        UserError: the request is invalid, or not possible now.
        Failure: the instance could not be created; nothing is left of it.
    """
    check_open_files()
    with Bar() as bar:
        for message in spawn(lambda tell: _own(options, place, tell)):
            if message.is_ready:
                return
            if message.code:
                raise Failure(ExitCode(message.code), message.line)
            if message.notice:
                say(message.notice)
            bar.report(message.doing, message.share)
    raise Failure(ExitCode.UNREACHABLE, _death(options.name))


def _death(name: str) -> str:
    return f"{name} died while it was being created: pyvmm destroy {name} cleans up"


def _own(options: VmOptions, place: Directory, tell: Tell) -> int:
    """Run the instance in its own process; return the process's exit code."""
    try:
        owner = Owner(options)
        _take_name(owner, place)
        owner.lifecycle.subscribe(
            lambda status: tell(Message(is_ready=True)) if status.state == State.NEW else None
        )
        owner.lifecycle.subscribe(lambda status: _log_end(owner, status))
        code = owner.run(
            report=lambda doing, share: tell(Message(doing=doing, share=share)),
            notify=lambda line: tell(Message(notice=printable(line))),
            keeps_name=True,
        )
        line = f"{options.name} was stopped while it was being created"
    except (UserError, Failure) as error:
        code, line = code_of(error), str(error)
    except Exception:  # noqa: BLE001  a defect, for the user to report
        code, line = ExitCode.INTERNAL, defect()
        say_lines(line)
    tell(Message(code=code, line=line))  # ignored once the instance was new
    return code


def _log_end(owner: Owner, status: Status) -> None:
    if status.state == State.STOPPED and owner.lifecycle.last_words:
        say(owner.lifecycle.last_words)


def _take_name(owner: Owner, place: Directory) -> None:
    try:
        owner.claim(place)
        owner.log_to_file()
    except OSError as error:
        line = f"{place.path}: {error.strerror}: an instance needs a few KiB there"
        raise UserError(shortage(error) or line) from None
