"""pyvmm create: make an instance that waits to be started."""

from typing import Unpack

import click

from pyvmm.arch.errors import UserError
from pyvmm.cli.instances import print_json
from pyvmm.cli.options import GuestOptions, guest_options, life_options, vm_options
from pyvmm.cli.owner import Owner, Wish
from pyvmm.cli.progress import Bar
from pyvmm.vm.api import State, Status
from pyvmm.vm.daemon import Message, Tell, redirect, spawn
from pyvmm.vm.directory import Directory, check_name
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.options import with_gdb

_HELP = """Make an instance that waits to be started, in a process of its own.

When the command ends, a realm is built and measured (its state is NEW), a normal VM loaded.
KERNEL is another way to say --kernel. Without a kernel it is a tiny built-in guest.

Exit code: 0 it is there, 2 bad input, 6 it could not be made.
"""


@click.command(help=_HELP)
@click.argument("instance", metavar="NAME")
@guest_options
@life_options
@click.option("--json", "wants_json", is_flag=True, help="print its status as JSON")
def create(  # noqa: D103  the help says it
    *,
    instance: str,
    timeout: float | None,
    trace: str | None,
    gdb: str | None,
    gdb_wait: bool,
    wants_json: bool,
    **asked: Unpack[GuestOptions],
) -> int:
    if asked["name"] not in {None, instance}:
        raise UserError(f"two names, {instance} and {asked['name']}: give one")
    asked["name"] = check_name(instance)
    directory = Directory.of_user()
    options = with_gdb(vm_options(asked), gdb, waits=gdb_wait)
    create_instance(Wish(options, timeout, trace), directory)
    if wants_json:
        print_json(directory.find(instance))
    return ExitCode.OK


def create_instance(wish: Wish, directory: Directory) -> None:
    """Make an instance; return when it is new.

    Raises:
        Failure: it could not be made; nothing of it is left.
    """
    last = Message(code=ExitCode.INTERNAL, line=f"{wish.options.name} died while it was made")
    with Bar() as bar:
        for last in spawn(lambda tell: _own(wish, directory, tell)):
            if last.notice:
                click.echo(f"pyvmm: {last.notice}", err=True)
            bar.report(last.doing, last.share)
    if not last.is_ready:
        code = ExitCode(last.code) if last.code else ExitCode.INTERNAL
        raise Failure(code, last.line or f"{wish.options.name} died while it was made")


def _own(wish: Wish, directory: Directory, tell: Tell) -> int:
    """Be the instance; return the exit code of its process."""
    owner = Owner(wish)

    def listener(status: Status) -> None:
        if status.state == State.NEW:
            tell(Message(is_ready=True))

    owner.lifecycle.subscribe(listener)
    try:
        claim = owner.claim(directory)
        redirect(str(claim.log))
        return owner.live(
            report=lambda doing, share: tell(Message(doing=doing, share=share)),
            notify=lambda line: tell(Message(notice=line)),
            keeps_name=True,
        )
    except (UserError, Failure, OSError) as error:
        code = error.code if isinstance(error, Failure) else ExitCode.BAD_INPUT
        tell(Message(code=code, line=str(error)))
        return code
