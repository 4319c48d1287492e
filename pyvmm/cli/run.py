"""pyvmm run: run a guest: a normal VM or a realm."""

from pathlib import Path

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import check_open_files
from pyvmm.cli.common.errand import Errand, Request
from pyvmm.cli.common.instances import format_os_error, parse_variables
from pyvmm.cli.common.options import GuestCommand, container_words, guest_options, vm_options
from pyvmm.cli.common.owner import Owner
from pyvmm.cli.common.progress import Bar
from pyvmm.cli.common.say import say
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.options import VmOptions

_COMMAND = "pyvmm.command"  # in the context
_HELP = """Run a guest, a normal VM or a realm, with this terminal as its console; Ctrl-A x quits.

KERNEL is the same as --kernel, IMAGE the same as --image: pyvmm run --realm debian. Without either,
a tiny built-in guest runs.

With a COMMAND, the guest runs that and ends: pyvmm run debian -v .:/src -- make test. The command
has this standard input, output and error, and not the console; its working directory is that of the
first --volume. It requires the agent of the guest's image. With --oci, it is the container's
command, in place of the image's; it is measured, and has the console.

Exit code: 0 the guest powered off or rebooted, 2 bad input, 3 its kernel panicked, 4 it crashed,
5 it was stopped, 6 it could not be created, 10 its watchdog expired, 124 --timeout ran out. A guest
of `pyvmm image build rootfs` returns the exit status of its program. With a COMMAND, the exit code
is the command's, as for `pyvmm exec`; 130 after Ctrl-C.
"""


class _Run(GuestCommand):
    """A command with a command of the guest behind the ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what is before it."""
        args = container_words(args)
        if "--" in args:
            at = args.index("--")
            args, command = args[:at], args[at + 1 :]
            if not command:
                ctx.fail("Give a command after --.")
            ctx.meta[_COMMAND] = command
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the parts of the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND [ARG]...]"]


@click.command(cls=_Run, help=_HELP)
@guest_options
@click.option(
    "-e", "--env", multiple=True, metavar="NAME=VALUE", help="environment variable of the command"
)
@click.option("-w", "--workdir", metavar="DIR", help="working directory of the command")
@click.option(
    "--rm", is_flag=True, help="remove the instance at the end: no effect, `run` always does"
)
@click.pass_context
def run(  # noqa: D103  the help says it
    context: click.Context,
    /,
    positional: Path | None,
    *,
    env: tuple[str, ...],
    workdir: str | None,
    rm: bool,
    **asked: object,
) -> int:
    del rm
    command, variables = context.meta.get(_COMMAND), parse_variables(env)
    if command is None and (env or workdir is not None):
        raise UserError("--env and --workdir are for a command: give one after --")
    options = vm_options(positional, asked)
    if command is None:
        return run_instance(options)
    if not options.has_agent:
        raise UserError(
            "a command requires the agent of the guest's image: give an image or a disk"
        )
    directory = workdir or (options.volumes[0].mount_point if options.volumes else "")
    return run_errand(options, Request(command, variables, directory))


def run_errand(options: VmOptions, request: Request) -> int:
    """Run a guest until it has run a command; return the command's exit status.

    Raises:
        UserError: the request is invalid, or the guest could not run the command.
        Failure: the guest could not be created.
    """
    owner, bar = _new_owner(options), Bar()
    errand = Errand(request, owner.lifecycle, is_synced=options.persists)
    owner.lifecycle.subscribe(lambda _: bar.stop())
    errand.start()
    with bar:
        code = owner.run(None, bar.report, say)
    errand.join()
    if errand.code is not None:
        return errand.code
    _report_end(owner, code)
    if errand.error is not None and code is ExitCode.QUIT:
        raise errand.error
    if code is ExitCode.QUIT:
        raise click.Abort
    return owner.lifecycle.status.result


def run_instance(options: VmOptions) -> int:
    """Run a guest to its end; return the exit code.

    Raises:
        UserError: the request is invalid; nothing was started.
        Failure: the guest could not be created.
    """
    owner, terminal, bar = _new_owner(options), Terminal(), Bar()
    if terminal.is_interactive:
        _announce(options)
    owner.lifecycle.subscribe(lambda _: bar.stop())  # the guest uses the screen now
    with bar, terminal:
        code = owner.run(terminal, bar.report, say)
    _report_end(owner, code)
    if terminal.is_interactive and code is ExitCode.OK and options.kernel is None:
        _explain(options)
    return owner.lifecycle.status.result or terminal.code


def _new_owner(options: VmOptions) -> Owner:
    check_open_files()
    owner = Owner(options, is_started=True)
    try:
        owner.claim(Directory.of_user())
    except OSError as error:
        say(f"other pyvmm commands cannot see this guest: {format_os_error(error)}", "error")
    return owner


def _report_end(owner: Owner, code: ExitCode) -> None:
    """Print why a guest ended badly."""
    reason = owner.lifecycle.status.reason
    if code is ExitCode.CRASHED:
        say(f"the guest crashed: {reason}", "error")
    if code in {ExitCode.TIMEOUT, ExitCode.WATCHDOG}:
        say(reason)
    if owner.lifecycle.last_words:
        say(owner.lifecycle.last_words)


def _explain(options: VmOptions) -> None:
    """Explain the output of the built-in guest to somebody who sees it for the first time."""
    if options.realm is None:
        lines = (
            "This was a normal VM, whose host sees all of its memory. A realm's host does not:",
            "  pyvmm run --realm           the same guest in a realm",
            "  pyvmm run --realm debian    Linux in a realm, to a shell (downloads Debian once)",
        )
    else:
        lines = (
            "This was a realm: its host saw none of its memory. The RMM told it what was measured.",
            "  pyvmm measure --realm       predicts its RIM: so a verifier knows what to expect",
            "  pyvmm run --realm debian    Linux in a realm, to a shell (downloads Debian once)",
        )
    click.echo("\n".join(lines), err=True)


def _announce(options: VmOptions) -> None:
    """Show what runs, as kvmtool does, and how to quit."""
    words = ["pyvmm run"]
    words += ["--realm"] if options.realm else []
    words += [f"-k {options.kernel}"] if options.kernel else []
    words += [f"--firmware {options.firmware}"] if options.firmware else []
    words += [f"-m {options.ram_size >> 20}", f"-c {options.num_cpus}", f"--name {options.name}"]
    click.echo(f"# {' '.join(words)}   (Ctrl-A x quits)", err=True)
