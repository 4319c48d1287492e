"""The command line: the table of verbs, one module per verb, and the handling of all errors.

A verb parses and prints; `pyvmm.vm` does the work.  A verb's module is imported only if that verb
is used, so that `pyvmm run` does not wait for imports of `pyvmm image`.
"""

import builtins
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import shortages
from pyvmm.arch.text import defect
from pyvmm.cli.common import streams
from pyvmm.cli.common.say import LOG_FORMATS, say, say_lines, set_log_format
from pyvmm.vm.exit_code import ExitCode, Failure

#: Verb → its module, which defines a command of the same name, and its line in the help.
VERBS = {
    "run": ("run", "Run a guest: a normal VM or a realm."),
    "boot": ("boot", "Boot software that owns the machine, at EL2 or EL1."),
    "create": ("create", "Create an instance without starting it."),
    "start": ("start", "Start instances, also again after their end."),
    "restart": ("restart", "Stop instances and start them again."),
    "console": ("console", "Attach this terminal to an instance's console."),
    "exec": ("exec", "Run a command in an instance."),
    "shell": ("shell", "Open a shell in an instance."),
    "cp": ("cp", "Copy files into or out of an instance."),
    "attest": ("attest", "Get an attestation token from a realm."),
    "wait": ("wait", "Wait for an instance's state or for console output."),
    "pause": ("pause", "Pause instances."),
    "resume": ("resume", "Resume paused instances."),
    "snapshot": ("snapshot", "Save a running VM to a file."),
    "replay": ("replay", "Repeat a recorded run, instruction by instruction."),
    "diff-runs": ("diff_runs", "Find the first event in which two recorded runs differ."),
    "stop": ("stop", "Stop instances: power off their guests, or end them."),
    "shutdown": ("shutdown", "Ask guests to power off."),
    "destroy": ("destroy", "Stop instances and remove all their files."),
    "list": ("list_", "List the instances."),  # a module named list would hide the type here
    "rename": ("rename", "Give an instance another name."),
    "logs": ("logs", "Print what a guest has written to its console."),
    "port": ("port", "Show the forwarded ports of an instance."),
    "stat": ("stat", "Show what instances have done and what they use."),
    "balloon": ("balloon", "Ask a guest to lend memory to its host."),
    "network": ("network", "Show a guest's network cards; unplug one."),
    "metrics": ("metrics", "Print the activity of all instances for Prometheus."),
    "top": ("top", "Watch the activity of all instances."),
    "debug": ("debug", "Show registers, stack and code of an instance's CPUs."),
    "inspect": ("inspect", "Show an instance's settings, or look into its machine."),
    "explore": ("explore", "Show the inside of instances as a web page."),
    "timeline": ("timeline", "Summarize or draw the timeline of a run."),
    "lab": ("lab", "Attack realms as a hostile host; see what stops it."),
    "measure": ("measure", "Compute a realm's initial measurement."),
    "endorse": ("endorse", "Print what a verifier should expect of this platform."),
    "image": ("image", "Build and manage guest images."),
    "hes": ("hes", "Inspect and control the root of trust."),
    "token": ("token", "Inspect attestation tokens; create test tokens."),
    "verify": ("verify", "Verify an attestation token."),
    "kbs": ("kbs", "Serve secrets to realms whose tokens verify."),
    "config": ("config", "Show the effective configuration."),
    "completion": ("completion", "Print the script that completes commands in a shell."),
    "doctor": ("doctor", "Check this machine's requirements."),
    "version": ("version", "Print the version."),
}


_OUR_PACKAGES: Final = ("rmm", "monitor", "hes")  # at the top level


class Verbs(click.Group):
    """A group that imports its commands on demand."""

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
        """Find the command; for an unknown one, suggest similar verbs."""
        if args[0] not in VERBS and not ctx.resilient_parsing:
            self._suggest(ctx, args[0])
        return super().resolve_command(ctx, args)

    @staticmethod
    def _suggest(ctx: click.Context, word: str) -> None:
        from difflib import get_close_matches  # noqa: PLC0415  slow to import

        if near := get_close_matches(word, VERBS, 2):
            ctx.fail(f"No such command {word!r}: did you mean {' or '.join(near)}?")

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; only `main` reports an interrupt."""
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
    """Return the name of a verb's function: the verb as an identifier that is no builtin."""
    return f"{verb}_" if hasattr(builtins, verb) else verb.replace("-", "_")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyvmm", prog_name="pyvmm", message="%(prog)s %(version)s")
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default=LOG_FORMATS[0],
    show_default=True,
    envvar="PYVMM_LOG_FORMAT",
    show_envvar=True,
    is_eager=True,
    expose_value=False,
    callback=lambda _context, _option, name: set_log_format(name),
    help="messages on standard error: lines of text, or JSON objects with time, level and message",
)
def cli() -> None:
    """Boot arm64 guests and Arm CCA realms on x86-64 and arm64 Linux."""


def _check_packages() -> None:
    """Check that Python finds our packages, which have names that others use too.

    Raises:
        UserError: it finds another one.
    """
    root = Path(__file__).parents[2]
    for name in _OUR_PACKAGES:
        spec = find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).parent
        if found != root / name or not (found / f"{name}.py").exists():
            raise UserError(
                f"the package {name} in {found} hides pyvmm's: install pyvmm in a virtual"
                " environment of its own"
            )


def main() -> None:
    """Run the command line; report a user's mistake in one line, with exit code 2."""
    streams.guard()
    try:
        _check_packages()
        with shortages():
            status = cli.main(prog_name="pyvmm", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except Failure as failure:
        _fail(str(failure), failure.code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(ExitCode.BAD_INPUT)
    except click.ClickException as error:
        _fail(f"{' '.join(error.format_message().split())} (see {_path(error)} --help)")
    except click.Abort:
        if sys.stderr.isatty():
            click.echo(err=True)  # the line has a ^C already
        _fail("interrupted", ExitCode.INTERRUPTED)
    except Exception:  # noqa: BLE001  a defect: its exit code must differ from every guest's
        say_lines(defect())
        sys.exit(ExitCode.INTERNAL)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _path(error: click.ClickException) -> str:
    """Return the command with the mistake, as the user types it."""
    context = getattr(error, "ctx", None)
    if isinstance(context, click.Context):
        return context.command_path
    context = click.Context(cli, info_name="pyvmm")  # the parser's error names no command
    for word in sys.argv[1:]:
        group = context.command
        command = group.get_command(context, word) if isinstance(group, click.Group) else None
        if command is None:
            break
        context = click.Context(command, context, word)
    return context.command_path


def _fail(line: str, code: ExitCode = ExitCode.BAD_INPUT) -> None:
    if code is ExitCode.INTERNAL:
        say_lines(line)  # the traceback of an instance
    elif line:
        say(line, "error")
    sys.exit(code)
