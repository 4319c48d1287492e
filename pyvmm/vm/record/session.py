"""What a run that is recorded or replayed has besides its guest."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyvmm import __version__
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import Event
from pyvmm.host import turns
from pyvmm.host.guest import GuestConfig
from pyvmm.host.turns import Turns
from pyvmm.vm.machine.outside import RepeatableOutside
from pyvmm.vm.options import VmOptions
from pyvmm.vm.record.build import build_digest
from pyvmm.vm.record.disks import disk_digests
from pyvmm.vm.record.file import Reader
from pyvmm.vm.record.header import Header, payload_digests, save_options
from pyvmm.vm.record.items import State
from pyvmm.vm.record.recorder import Recorder
from pyvmm.vm.record.replayer import Replayer


class Source(turns.Outside, Protocol):
    """Where input comes from: a `Recorder` or a `Replayer`."""

    num_events: int

    def draw(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return what the machine does not compute."""

    def listen(self, event: Event) -> None:
        """Take note of an event."""

    def end(self, state: State) -> None:
        """Take note of the end."""


@dataclass(frozen=True, slots=True)
class Session:
    """A run that can be repeated."""

    source: Source
    turns: Turns
    outside: RepeatableOutside
    size: tuple[int, int]  # of the terminal

    @classmethod
    def of(cls, source: Source, start: float, size: tuple[int, int]) -> "Session":
        """Return the session of a run that began at ``start``, in seconds since 1970."""
        between = Turns(source)
        outside = RepeatableOutside(between, start, source.draw)
        return cls(source, between, outside, size)


def check_recordable(options: VmOptions) -> None:
    """Check that everything that reaches the guest can be recorded.

    Raises:
        UserError: it cannot.
    """
    for is_given, what in (
        (options.restore, "--restore"),
        (options.gdb, "--gdb"),
        (options.on_reboot != "exit", "--on-reboot"),
        (options.has_balloon, "--balloon"),
        (options.firmware, "--firmware"),
        (options.directories, "a shared directory"),
        (options.ports, "--port"),
        (options.vsock, "--vsock"),
    ):
        if is_given:
            raise UserError(f"--record excludes {what}: omit it")
    for disk in options.disks:
        if not disk.is_kept:
            raise UserError(
                f"--record: the guest would change disk {disk.path}, from which a replay has to"
                f" start: give -d {disk.path},snapshot to throw the changes away, or ,ro"
            )


def record(options: VmOptions, config: GuestConfig, size: tuple[int, int]) -> Session:
    """Begin to record a run to the file of ``--record``.

    Args:
        options: the guest.
        config: its payload.
        size: columns and rows of the terminal.

    Raises:
        UserError: something of it cannot be recorded, or the file cannot be written.
    """
    check_recordable(options)
    assert options.record is not None  # noqa: S101  the caller asks for it
    start = time.time()
    header = Header(
        build_digest(),
        __version__,
        save_options(options),
        payload_digests(config),
        disk_digests(options.disks),
        start,
        size,
    )
    return Session.of(Recorder(options.record, header), start, size)


def replay(reader: Reader) -> tuple[Replayer, Session]:
    """Begin to replay a record.

    Raises:
        UserError: this program has not made it, or it is damaged.
    """
    replayer = Replayer(reader)
    header = replayer.header
    if header.build != build_digest():
        raise UserError(
            f"{reader.path} was made by another build of pyvmm ({header.pyvmm}): replay it with"
            " that one, or record the run again"
        )
    return replayer, Session.of(replayer, header.start, header.size)
