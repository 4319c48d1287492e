"""Serves a debugger that runs a replay forwards and backwards."""

import os
import socket
from collections.abc import Callable
from threading import Event
from typing import Protocol

from pyvmm.arch.errors import UserError
from pyvmm.vm.gdb.server import GdbServer
from pyvmm.vm.option_values import GdbAddress
from pyvmm.vm.options import VmOptions
from pyvmm.vm.record.history import Channel, History
from pyvmm.vm.record.machine_process import MachineProcess, Pauses, Probe
from pyvmm.vm.record.port import ReplayPort
from pyvmm.vm.record.session import Session

_HELP = """\
help   print this text
info   show where the replay is
quit   end the replay
"""


class Debuggable(Protocol):
    """What the debugger needs of the machine."""

    @property
    def pauses(self) -> Pauses:
        """Where it pauses."""

    @property
    def probe(self) -> Probe:
        """Looks into it."""


class _Guest:
    """The debugger's other commands."""

    def __init__(self, port: ReplayPort) -> None:
        self._port = port
        self.is_over = Event()

    def monitor(self, command: str) -> str:
        """Execute one command; return lines of text."""
        match command.split():
            case [] | ["help"]:
                return _HELP
            case ["info"]:
                return self._port.describe()
            case ["quit"]:
                self.kill()
                return ""
            case _:
                return "unknown command: try monitor help\n"

    def kill(self) -> None:
        """End the replay."""
        self.is_over.set()


def serve_debugger(
    start: Callable[[], None],
    options: VmOptions,
    session: Session,
    machine: Debuggable,
    address: GdbAddress,
    tell: Callable[[str], None],
) -> None:
    """Replay as a debugger wants, until it ends the replay.

    Args:
        start: builds and starts the guest; called in a process of its own.
        options: the options of the guest.
        session: of the replay.
        machine: the machine.
        address: where the debugger connects.
        tell: called with a line for the user.

    Raises:
        UserError: the address cannot be used.
    """
    port = ReplayPort(options.num_cpus)
    guest = _Guest(port)
    server = GdbServer(address, port, guest)
    try:
        history = History(_start(start, session, machine), lambda: port.is_interrupted)
        try:
            port.connect(history)
            server.start()
            tell(f"for GDB: target remote {server.address}")
            guest.is_over.wait()
        finally:
            port.hold()
            history.close()
    finally:
        server.close()


def _start(start: Callable[[], None], session: Session, machine: Debuggable) -> Channel:
    """Start the process with the machine; this process keeps only the debugger's side."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        raise UserError("the host cannot start a process: end some others") from None
    if pid == 0:
        try:
            ours.close()
            start()
            turns = session.turns
            position = lambda: turns.machine.position  # noqa: E731
            MachineProcess(theirs, machine.pauses, machine.probe, position).run(turns.take)
        finally:
            os._exit(1)
    theirs.close()
    return Channel(ours)
