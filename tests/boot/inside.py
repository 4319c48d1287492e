"""A guest in this process, so that a test can inspect its platform while it runs."""

import gc
import os
import threading
import time
from pathlib import Path
from typing import Self

from pyvmm.arch.events import EventStream
from pyvmm.platform import Platform
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.control.terminal import Terminal
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.options import VmOptions
from tests import watchdog
from tests.boot.shell import PATIENCE, Shell


class Inside:
    """An instance that runs in a thread; a context manager that ends it."""

    def __init__(
        self, options: VmOptions, events: EventStream | None = None, timeout: float | None = None
    ) -> None:
        self.platform = Platform(
            options.ram_size,
            options.num_cpus,
            events,
            features=options.cpu_features,
            engine=options.engine,
        )
        self._fds = (*os.pipe(), *os.pipe())
        in_reader, in_writer, out_reader, self._out_writer = self._fds
        self.shell = Shell(in_writer, out_reader)
        self._terminal = Terminal(in_reader, self._out_writer)
        self.instance = Instance(options, make_config(options), self.platform, self._terminal)
        self._code: ExitCode | None = None
        self._thread = threading.Thread(
            target=self._run, args=(timeout,), name="instance", daemon=True
        )
        self._thread.start()

    def _run(self, timeout: float | None) -> None:
        try:
            with self._terminal:
                self._code = self.instance.run(timeout)
        finally:
            os.close(self._out_writer)

    def wait(self) -> ExitCode:
        """Return the exit code."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the guest does not end"
        assert self._code is not None, "the instance raised"
        return self._code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.instance.quit()
            self._thread.join(PATIENCE)
        for fd in self._fds[:3]:
            os.close(fd)


def run_inside(options: VmOptions, timeout: float | None = PATIENCE) -> tuple[ExitCode, str]:
    """Run a guest to its end; return its exit code and its output."""
    with Inside(options, timeout=timeout) as guest:
        output = guest.shell.read_all()
        return guest.wait(), output


def holdings() -> dict[str, int]:
    """Count the resources that a guest must release in this process."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return {
        "file descriptors": _count("/proc/self/fd"),
        "threads": sum(thread.name != watchdog.NAME for thread in threading.enumerate()),
        "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        "memory files": maps.count("memfd:"),
    }


def settled(expected: dict[str, int]) -> dict[str, int]:
    """Count again, after the moment that a joined thread may need to disappear."""
    deadline = time.monotonic() + 5
    while (now := holdings()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return now


def _count(directory: str) -> int:
    return sum(1 for _ in Path(directory).iterdir())
