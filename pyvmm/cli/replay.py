"""pyvmm replay: repeat a recorded run."""

import os
import time
from dataclasses import replace
from pathlib import Path

import click

from pyvmm.arch.engine import Engine
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import EventStream
from pyvmm.cli.common.options import FILE
from pyvmm.cli.common.say import say
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.options import VmOptions
from pyvmm.vm.record.disks import disk_digests
from pyvmm.vm.record.file import Reader
from pyvmm.vm.record.header import Header, load_options, payload_digests
from pyvmm.vm.record.replayer import DivergedError
from pyvmm.vm.record.session import Session
from pyvmm.vm.record.session import replay as replay_record

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
def replay(file: Path, engine: str | None) -> int:  # noqa: D103  the help says it
    reader = Reader(file)
    replayer, session = replay_record(reader)
    options = _options(replayer.header, file, engine)
    begin = time.monotonic()
    try:
        with Terminal() as terminal:
            instance = _instance(options, session, replayer.header, terminal)
            instance.run()
    except DivergedError as difference:
        say(f"the run differs from the record: {difference}")
        return ExitCode.DIFFERENT
    seconds = time.monotonic() - begin
    position = session.turns.machine.position
    say(f"the same run: {position} instructions, {replayer.num_events} events in {seconds:.1f} s")
    return ExitCode.OK


def _options(header: Header, file: Path, engine: str | None) -> VmOptions:
    try:
        options = load_options(header.options, f"replay-{os.getpid()}")
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): record the run again") from None
    return options if engine is None else replace(options, engine=Engine(engine))


def _instance(options: VmOptions, session: Session, header: Header, terminal: Terminal) -> Instance:
    config = make_config(options)
    now = payload_digests(config)
    for name, digest in header.payload.items():
        if now.get(name) != digest:
            raise UserError(f"the {name} has changed since the recording: give back the old one")
    for disk, content, recorded in zip(
        options.disks, disk_digests(options.disks), header.disks, strict=False
    ):
        if content != recorded:
            raise UserError(f"disk {disk.path} has changed since the recording: give back the old")
    from pyvmm.platform import Platform  # noqa: PLC0415  slow; check the input first
    from pyvmm.root_of_trust import ReplayedRootOfTrust  # noqa: PLC0415
    from pyvmm.token.generations import Generation  # noqa: PLC0415

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
    return Instance(options, config, platform, terminal, session=session)
