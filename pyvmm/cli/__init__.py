"""The command line: one module a verb; this table of verbs and what they have in common.

A verb parses and prints; what it does lives in `pyvmm.vm`.  A verb's module is imported when it is
the one to run, so that `pyvmm run` does not wait for what `pyvmm image` needs.
"""

import builtins
import sys
from difflib import get_close_matches
from importlib import import_module

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import shortages
from pyvmm.arch.text import defect
from pyvmm.cli.common import streams
from pyvmm.cli.common.say import say, say_lines
from pyvmm.vm.exit_code import ExitCode, Failure

#: Verb → its module here, which has a command of the same name, and its line in the help.
VERBS = {
    "run": ("run", "Run a guest: a normal VM, or a realm."),
    "create": ("create", "Make an instance that waits to be started."),
    "start": ("start", "Start instances."),
    "console": ("console", "Attach this terminal to an instance's console."),
    "exec": ("exec", "Run a command inside an instance."),
    "attest": ("attest", "Have a realm's guest ask for an attestation token."),
    "wait": ("wait", "Wait for a state of an instance, or for words of its console."),
    "pause": ("pause", "Hold the vCPUs of instances."),
    "resume": ("resume", "Let paused instances go on."),
    "stop": ("stop", "Stop instances, their disks flushed."),
    "destroy": ("destroy", "Stop instances and leave nothing of them."),
    "list": ("list_", "List the instances."),  # a module list would hide the type here
    "stat": ("stat", "Show what instances have done and what they take."),
    "balloon": ("balloon", "Ask a guest to lend memory to its host."),
    "top": ("top", "Watch what the instances do."),
    "debug": ("debug", "Look into an instance: registers, stack and code of its CPUs."),
    "measure": ("measure", "Say what the initial measurement of a realm will be."),
    "endorse": ("endorse", "Say what a verifier is to expect of this platform."),
    "image": ("image", "Make the files of a guest."),
    "hes": ("hes", "Look at the root of trust, and drive it."),
    "token": ("token", "Look into attestation tokens, make some."),
    "verify": ("verify", "Verify an attestation token."),
    "config": ("config", "See what a configuration comes to."),
    "completion": ("completion", "Print what a shell needs to complete commands."),
    "doctor": ("doctor", "Say what is missing here, and how to get it."),
    "version": ("version", "Say which version this is."),
}


class Verbs(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb's command."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module = import_module(f"{__name__}.{VERBS[cmd_name][0]}")
        command = getattr(module, _name_in_python(cmd_name))
        assert isinstance(command, click.Command)  # noqa: S101  the table is wrong otherwise
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the line; help with one that there is not."""
        near = get_close_matches(args[0], VERBS, 2) if args[0] not in VERBS else []
        if near and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}: {' or '.join(near)}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an interrupt is told by `main`, and by nobody else."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the verbs without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


def _name_in_python(verb: str) -> str:
    """Return the name of a verb's function: its own, unless Python has one of that name."""
    return f"{verb}_" if hasattr(builtins, verb) else verb


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyvmm", prog_name="pyvmm", message="%(prog)s %(version)s")
def cli() -> None:
    """Boot arm64 guests, and Arm CCA realms, on x86-64 Linux."""


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    streams.guard()
    try:
        with shortages():
            status = cli.main(prog_name="pyvmm", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _refuse(str(error))
    except Failure as failure:
        _refuse(str(failure), failure.code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(ExitCode.BAD_INPUT)
    except click.ClickException as error:
        _refuse(f"{' '.join(error.format_message().split())} (see {_path(error)} --help)")
    except click.Abort:
        if sys.stderr.isatty():
            click.echo(err=True)  # the line has a ^C already
        _refuse("interrupted", ExitCode.INTERRUPTED)
    except Exception:  # noqa: BLE001  ours, and not to be taken for an exit code of a guest
        click.echo(defect(), err=True)
        sys.exit(ExitCode.INTERNAL)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _path(error: click.ClickException) -> str:
    """Return the command that a mistake was made with, as it is typed."""
    context = getattr(error, "ctx", None)
    if isinstance(context, click.Context):
        return context.command_path
    context = click.Context(cli, info_name="pyvmm")  # the parser names no command
    for word in sys.argv[1:]:
        group = context.command
        command = group.get_command(context, word) if isinstance(group, click.Group) else None
        if command is None:
            break
        context = click.Context(command, context, word)
    return context.command_path


def _refuse(line: str, code: ExitCode = ExitCode.BAD_INPUT) -> None:
    if code is ExitCode.INTERNAL:
        say_lines(line)  # a traceback of the instance's
    elif line:
        say(line)
    sys.exit(code)
