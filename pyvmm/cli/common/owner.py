"""The process that an instance is: it makes the guest, serves its socket, and lives its life."""

import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pyvmm.arch.events import EventStream
from pyvmm.arch.system import NoThreadError
from pyvmm.cli.common.say import say
from pyvmm.cli.common.trace import Trace
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.console import ConsoleLog
from pyvmm.vm.control.daemon import redirect
from pyvmm.vm.control.directory import Claim, Directory
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.lifecycle import Lifecycle, Report
from pyvmm.vm.control.server import Server
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.machine.needs import memory_warning
from pyvmm.vm.option_values import check_disks
from pyvmm.vm.options import VmOptions

if TYPE_CHECKING:
    from pyvmm.root_of_trust import RootOfTrust


class Owner:
    """An instance in this process."""

    def __init__(self, options: VmOptions, *, is_started: bool = False) -> None:
        self._options = options
        self._is_started = is_started
        self._resources = ExitStack()
        self._has_been_new = self._keeps_name = False
        self._claim: Claim | None = None
        self.lifecycle = Lifecycle(options)

    def claim(self, directory: Directory) -> None:
        """Take the name and serve its socket, until the end of `run`.

        Raises:
            UserError: the name is taken, or none; or there is no thread for the server.
            OSError: the directory takes nothing.
        """
        claim = self._claim = directory.claim(self.lifecycle.status)
        self._server = Server(claim.listener, self.lifecycle)
        self.lifecycle.subscribe(self._write)
        try:
            self._server.start()
        except NoThreadError:
            self._release()
            raise

    def log_to_file(self) -> None:
        """Say what is for nobody in a file of the instance, from now on.

        Raises:
            OSError: there is no room for one; the name is given up.
        """
        if self._claim is None:
            return
        try:
            redirect(str(self._claim.log))
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
            terminal: the console's.
            report: told how far the building is.
            notify: told what the user should know.
            keeps_name: what has been new stays listed at the end.

        Raises:
            UserError: something asked for is wrong.
            Failure: the guest could not be made.
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
        events = EventStream(enter(Trace(options.trace)) if options.trace else None)
        check_disks(options.disks)
        root_of_trust = enter(_start_hes(options)) if options.has_hes else None
        config = make_config(options)
        if notify is not None and (line := memory_warning(options, config)):
            notify(line)
        from pyvmm.platform import Platform  # noqa: PLC0415  after the input is known to be good

        platform = Platform(
            options.ram_size,
            options.num_cpus,
            events,
            root_of_trust=root_of_trust,
            features=options.cpu_features,
        )
        if root_of_trust is not None and root_of_trust.notice and notify is not None:
            notify(root_of_trust.notice)
        tell = terminal.tell if terminal is not None else _log
        instance = Instance(options, config, platform, terminal, console_log, tell)
        self._note_gdb()
        if instance.gdb_address and notify is not None:
            notify(f"for GDB: target remote {instance.gdb_address}")
        del config  # the payload; the guest has it
        gc.freeze()  # what lives as long as the guest is not looked at again and again
        return instance

    def _note_gdb(self) -> None:
        gdb = self._options.gdb
        if self._claim is not None and gdb is not None and gdb.path is not None:
            with suppress(OSError):  # then it stays if we are killed
                self._claim.note_gdb(gdb.path)

    def _write(self, status: Status) -> None:
        self._has_been_new |= status.state == State.NEW
        if self._claim is None:
            return
        if (
            status.state == State.STOPPED and self._is_kept
        ):  # who sees that state looks there for what was said
            self._keep_console(self._claim.console_log)
        try:
            self._claim.write(status)
        except OSError as error:  # somebody cleared the directory away
            say(f"the state of {status.name}: {error}")

    def _keep_console(self, file: Path) -> None:
        try:
            file.write_bytes(self.lifecycle.console_log.tail())
        except OSError as error:
            say(f"what the console said is lost: {error}")
            with suppress(OSError):  # none rather than a part, which nobody would know for one
                file.unlink()

    @property
    def _is_kept(self) -> bool:
        """Tell whether it stays listed when it has ended."""
        return self._keeps_name and self._has_been_new and not self.lifecycle.is_unwanted

    def _release(self) -> None:
        if self._claim is None:
            return
        self._server.close()
        try:
            self._claim.release(keep=self._is_kept)
        except OSError as error:
            say(f"something of {self.lifecycle.status.name} stays: {error}")


def _log(line: str) -> None:
    """Say something where nobody is at a terminal: in the instance's log."""
    say(line)


def _start_hes(options: VmOptions) -> "RootOfTrust":
    """Start it first: it comes to life while the rest is loaded."""
    from pyvmm.root_of_trust import RootOfTrust  # noqa: PLC0415  a normal VM has none
    from pyvmm.token.generations import Generation  # noqa: PLC0415

    return RootOfTrust(options.hes_directory, Generation(options.token_profile))
