"""The process of an instance: it creates the guest, serves its API and runs it to its end."""

import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.arch.events import EventStream
from pyvmm.arch.system import NoThreadError
from pyvmm.cli.common.kept import KeptOptions
from pyvmm.cli.common.say import say
from pyvmm.cli.common.timeline import Timeline
from pyvmm.cli.common.trace import Trace
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.console import ConsoleFile, ConsoleLog
from pyvmm.vm.control.daemon import redirect
from pyvmm.vm.control.directory import Claim, Directory
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.lifecycle import Lifecycle, Report
from pyvmm.vm.control.sandbox import confine
from pyvmm.vm.control.server import Server
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.boot import make_config, make_empty_config
from pyvmm.vm.machine.disks import check_disks
from pyvmm.vm.machine.needs import memory_warning
from pyvmm.vm.options import VmOptions
from pyvmm.vm.share_options import check_directories

if TYPE_CHECKING:
    from pyvmm.root_of_trust import RootOfTrust
    from pyvmm.vm.snapshot import Snapshot


class Owner:
    """The instance of this process.

    Args:
        options: the guest.
        kept: the options as the user gave them, to be kept for another start.
        is_started: it starts by itself.
        replaces: it is the successor of an instance of the same name that has ended.
    """

    def __init__(
        self,
        options: VmOptions,
        kept: KeptOptions | None = None,
        *,
        is_started: bool = False,
        replaces: bool = False,
    ) -> None:
        self._kept = kept
        self._replaces = replaces
        self._options = options
        self._is_started = is_started
        self._resources = ExitStack()
        self._has_been_new = self._keeps_name = False
        self._claim: Claim | None = None
        self.lifecycle = Lifecycle(options)

    def claim(self, directory: Directory) -> None:
        """Take the name and serve its socket, until the end of `run`.

        Raises:
            UserError: the name is taken or invalid, or there is no thread for the server.
            OSError: the directory cannot be written.
        """
        claim = self._claim = directory.claim(self.lifecycle.status, replaces=self._replaces)
        self.lifecycle.console_log.copy_to(ConsoleFile(claim.console_copy))
        self._server = Server(claim.listener, self.lifecycle)
        self.lifecycle.subscribe(self._write)
        try:
            self._server.start()
        except NoThreadError:
            self._release()
            raise

    def log_to_file(self) -> None:
        """Redirect this process's messages to the instance's log file.

        Raises:
            OSError: the file cannot be created; the name has been released.
        """
        if self._claim is None:
            return
        try:
            redirect(str(self._claim.log))
            if self._kept is not None:
                self._claim.keep_options(self._kept.encode())
        except OSError:
            self._release()
            raise

    def run(
        self,
        terminal: Terminal | None = None,
        report: Report | None = None,
        notify: Callable[[str], None] | None = None,
        *,
        keeps_name: bool = False,
    ) -> ExitCode:
        """Build the guest and run it to its end.

        Args:
            terminal: the terminal that is attached to the console.
            report: called with the progress of building the guest.
            notify: called with notices for the user.
            keeps_name: keep an instance that has been new listed after its end.

        Raises:
            UserError: the request is invalid.
            Failure: the guest could not be created.
        """
        self._keeps_name = keeps_name
        with self._resources:
            try:
                return self.lifecycle.run(
                    lambda log: self._assemble(log, terminal, notify),
                    self._options.timeout,
                    report,
                    is_started=self._is_started,
                )
            finally:
                self._release()

    def _assemble(
        self,
        console_log: ConsoleLog,
        terminal: Terminal | None,
        notify: Callable[[str], None] | None,
    ) -> Instance:
        options, enter = self._options, self._resources.enter_context
        trace = Trace(options.trace, options.trace_format) if options.trace else None
        events = EventStream(enter(trace) if trace is not None else None)
        if options.trace_out is not None:
            events.subscribe(enter(Timeline(options.trace_out)))
        if self.lifecycle.event_log is not None:
            self.lifecycle.event_log.start()
            events.subscribe(self.lifecycle.event_log.listen)
        check_disks(options.disks)
        check_directories(options.directories)
        root_of_trust = enter(_start_hes(options)) if options.has_hes else None
        snapshot = None if options.restore is None else _open_snapshot(options.restore)
        config = make_config(options) if snapshot is None else make_empty_config(options)
        if notify is not None and (line := memory_warning(options, config)):
            notify(line)
        session = None
        if options.record is not None:
            from pyvmm.vm.record.session import record  # noqa: PLC0415  few runs are recorded

            session = record(options, config, terminal.size if terminal is not None else (0, 0))
        from pyvmm.platform import Platform  # noqa: PLC0415  slow; check the input first

        platform = Platform(
            options.ram_size,
            options.num_cpus,
            events,
            root_of_trust=root_of_trust,
            features=options.cpu_features,
            engine=options.engine,
            session=session,
        )
        if platform.notice and notify is not None:
            notify(platform.notice)
        if root_of_trust is not None and root_of_trust.notice and notify is not None:
            notify(root_of_trust.notice)
        tell = terminal.tell if terminal is not None else _log
        home = self._claim.home if self._claim is not None else None
        instance = Instance(
            options, config, platform, terminal, console_log, tell, home, snapshot, session
        )
        self._note_gdb()
        if instance.gdb_address and notify is not None:
            notify(f"for GDB: target remote {instance.gdb_address}")
        if instance.vsock_address and notify is not None:
            notify(f"vsock: {instance.vsock_address}")
        del config  # free the payload; the guest has a copy
        confine(options, home, platform.confine_threads)
        gc.freeze()  # the collector need not scan what lasts as long as the guest
        return instance

    def _note_gdb(self) -> None:
        gdb = self._options.gdb
        if self._claim is not None and gdb is not None and gdb.path is not None:
            with suppress(OSError):  # then the socket stays behind if this process is killed
                self._claim.note_gdb(gdb.path)

    def _write(self, status: Status) -> None:
        self._has_been_new |= status.state == State.NEW
        if self._claim is None:
            return
        if (
            status.state == State.STOPPED and self._is_kept
        ):  # before the state is published: clients then look for the file
            self._keep_console(self._claim.console_log)
        try:
            self._claim.write(status)
        except OSError as error:  # the directory was removed
            say(f"cannot record the state of {status.name}: {error}", "error")

    def _keep_console(self, file: Path) -> None:
        try:
            file.write_bytes(self.lifecycle.console_log.tail())
        except OSError as error:
            say(f"the console output is lost: {error}", "error")
            with suppress(OSError):  # no file rather than an incomplete one
                file.unlink()

    @property
    def _is_kept(self) -> bool:
        """Return whether the instance stays listed after its end."""
        return self._keeps_name and self._has_been_new and not self.lifecycle.is_destroyed

    def _release(self) -> None:
        if self._claim is None:
            return
        self._server.close()
        try:
            self._claim.release(keep=self._is_kept)
        except OSError as error:
            say(f"cannot remove all files of {self.lifecycle.status.name}: {error}", "error")


def _log(line: str) -> None:
    """Print a line for an instance without a terminal: it goes to the instance's log."""
    say(line)


def _open_snapshot(path: Path) -> "Snapshot":
    from pyvmm.vm.snapshot import Snapshot  # noqa: PLC0415  few guests are restored

    return Snapshot(path)


def _start_hes(options: VmOptions) -> "RootOfTrust":
    """Start the HES first: it gets ready while the rest is loaded."""
    from pyvmm.root_of_trust import RootOfTrust  # noqa: PLC0415  a normal VM has none
    from pyvmm.token.generations import Generation  # noqa: PLC0415

    return RootOfTrust(options.hes_directory, Generation(options.token_profile))
