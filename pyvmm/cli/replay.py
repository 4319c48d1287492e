"""pyvmm replay: repeat a recorded run."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyvmm.arch.engine import Engine
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import EventStream
from pyvmm.cli.common.options import FILE
from pyvmm.cli.common.say import say
from pyvmm.token.generations import Generation
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.option_values import parse_gdb
from pyvmm.vm.options import VmOptions
from pyvmm.vm.record.file import Reader
from pyvmm.vm.record.header import check_files, load_options
from pyvmm.vm.record.replayer import DivergedError, Replayer
from pyvmm.vm.record.session import Session
from pyvmm.vm.record.session import replay as start_replay

if TYPE_CHECKING:
    from pyvmm.platform import Platform

_HELP = """Repeat a run that `pyvmm run --record FILE` has recorded.

The guest gets the same input at the same instructions.  Its output is shown, and its events,
registers and memory are compared with the record.

Exit code: 0 the run was the same, 1 it was not, 2 the file is not a record that can be replayed.
"""


@click.command(help=_HELP)
@click.argument("file", type=FILE)
@click.option(
    "--engine",
    type=click.Choice([each.value for each in Engine]),
    help="engine that executes the guest's code  [default: that of the record]",
)
@click.option(
    "--gdb",
    metavar="PORT|SOCKET",
    help="let GDB connect, at a loopback port or Unix socket, to run forwards and backwards",
)
def replay(file: Path, engine: str | None, gdb: str | None) -> int:  # noqa: D103  see the help
    if gdb is not None and engine not in {None, Engine.INTERP}:
        raise UserError("--gdb interprets the guest's code: omit --engine")
    replayer, session = start_replay(Reader(file))
    options = load_options(replayer.header, f"replay-{os.getpid()}", file)
    if gdb is not None:
        return _debug(replace(options, engine=Engine.INTERP), session, replayer, gdb)
    if engine is not None:
        options = replace(options, engine=Engine(engine))
    return _repeat(options, session, replayer)


def _repeat(options: VmOptions, session: Session, replayer: Replayer) -> int:
    begin = time.monotonic()
    try:
        with Terminal() as terminal:
            _, instance = _make(options, session, replayer, terminal)
            instance.run()
    except DivergedError as difference:
        say(f"the run differs from the record: {difference}")
        return ExitCode.DIFFERENT
    seconds = time.monotonic() - begin
    if replayer.is_stopped:
        return ExitCode.QUIT
    position = session.turns.machine.position
    say(f"the same run: {position} instructions, {replayer.num_events} events in {seconds:.1f} s")
    return ExitCode.OK


def _debug(options: VmOptions, session: Session, replayer: Replayer, gdb: str) -> int:
    """Let a debugger replay; it interprets, because forks would share translated code."""
    from pyvmm.vm.record.debugging import serve_debugger  # noqa: PLC0415  few are debugged

    address = parse_gdb(gdb)
    session.turns.has_thread = False
    platform, instance = _make(options, session, replayer, None)
    machine = platform.debuggable(instance.guest)
    serve_debugger(instance.start, options, session, machine, address, say)
    return ExitCode.OK


def _make(
    options: VmOptions, session: Session, replayer: Replayer, terminal: Terminal | None
) -> "tuple[Platform, Instance]":
    """Make the machine and the guest of the record, from the same files."""
    config = make_config(options)
    check_files(replayer.header, options, config)
    from pyvmm.platform import Platform  # noqa: PLC0415  slow; check the input first
    from pyvmm.root_of_trust import ReplayedRootOfTrust  # noqa: PLC0415

    root_of_trust = ReplayedRootOfTrust(Generation(options.token_profile))
    platform = Platform(
        options.ram_size,
        options.num_cpus,
        EventStream(),
        root_of_trust=root_of_trust if options.has_hes else None,
        features=options.cpu_features,
        engine=options.engine,
        session=session,
    )
    return platform, Instance(options, config, platform, terminal, session=session)
