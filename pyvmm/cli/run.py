"""pyvmm run: run a guest: a normal VM or a realm."""

from pathlib import Path

import click

from pyvmm.arch.system import check_open_files
from pyvmm.cli.common.instances import format_os_error
from pyvmm.cli.common.options import guest_options, vm_options
from pyvmm.cli.common.owner import Owner
from pyvmm.cli.common.progress import Bar
from pyvmm.cli.common.say import say
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.options import VmOptions

_HELP = """Run a guest, a normal VM or a realm, with this terminal as its console; Ctrl-A x quits.

KERNEL is the same as --kernel. Without a kernel, a tiny built-in guest runs.

Exit code: 0 the guest powered off or rebooted, 2 bad input, 3 its kernel panicked, 4 it crashed,
5 it was stopped, 6 it could not be created, 10 its watchdog expired, 124 --timeout ran out. A guest
of `pyvmm image build rootfs` returns the exit status of its program.
"""


@click.command(help=_HELP)
@guest_options
def run(positional: Path | None, **asked: object) -> int:  # noqa: D103  the help says it
    return run_instance(vm_options(positional, asked))


def run_instance(options: VmOptions) -> int:
    """Run a guest to its end; return the exit code.

    Raises:
        UserError: the request is invalid; nothing was started.
        Failure: the guest could not be created.
    """
    check_open_files()
    owner, terminal, bar = Owner(options, is_started=True), Terminal(), Bar()
    try:
        owner.claim(Directory.of_user())
    except OSError as error:
        say(f"other pyvmm commands cannot see this guest: {format_os_error(error)}")
    if terminal.is_interactive:
        _announce(options)
    owner.lifecycle.subscribe(lambda _: bar.stop())  # the guest uses the screen now
    with bar, terminal:
        code = owner.run(terminal, bar.report, say)
    reason = owner.lifecycle.status.reason
    if code is ExitCode.CRASHED:
        say(f"the guest crashed: {reason}")
    if code in {ExitCode.TIMEOUT, ExitCode.WATCHDOG}:
        say(reason)
    if owner.lifecycle.last_words:
        say(owner.lifecycle.last_words)
    if terminal.is_interactive and code is ExitCode.OK and options.kernel is None:
        _explain(options)
    return owner.lifecycle.status.result or terminal.code


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
