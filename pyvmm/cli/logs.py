"""pyvmm logs: print what a guest has written to its console."""

import os
from collections import deque
from pathlib import Path
from typing import Final

import click

from pyvmm.cli.common.instances import GONE, complete, directory
from pyvmm.cli.common.streams import write_all
from pyvmm.vm.control.directory import CONSOLE_LOGS
from pyvmm.vm.control.process import Process

_PACE: Final = 0.1  # seconds between two looks at the file
_HELP = """Print what a guest has written to its console, also after its end.

The last MiB at least is kept, over all starts of the instance, and until `pyvmm destroy`. The log
is as the guest wrote it, and may contain escape sequences of terminals.
"""


@click.command(help=_HELP)
@click.argument("name", metavar="NAME", shell_complete=complete)
@click.option("-f", "--follow", is_flag=True, help="continue until the instance ends")
@click.option(
    "-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="only the last LINES lines"
)
def logs(*, name: str, follow: bool, tail: int | None) -> None:
    """Print the log."""
    place = directory()
    status = place.find(name)
    log = Log(place.home(name))
    data = log.read()
    lines = data.splitlines(keepends=True)
    write_all(1, data if tail is None else b"".join(deque(lines, tail)))
    if follow and status.state not in GONE:
        with Process(status.pid) as process:
            log.follow(process)


class Log:
    """The files of a console log, read to where they end now, and then to where they go on."""

    def __init__(self, home: Path) -> None:
        self._current, self._earlier = (home / name for name in CONSOLE_LOGS)
        self._inode = self._position = 0

    def read(self) -> bytes:
        """Return what has been added."""
        try:
            with self._current.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                before = b"" if inode == self._inode else self._read_earlier()
                file.seek(self._position if inode == self._inode else 0)
                data = file.read()
                self._inode, self._position = inode, file.tell()
        except OSError:  # it is full, and the next one does not exist yet; or it never did
            return self._read_earlier()
        return before + data

    def _read_earlier(self) -> bytes:
        """Return what has been added to the file before the current one."""
        try:
            with self._earlier.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                is_first = not self._inode
                if not is_first and inode != self._inode:
                    return b""  # it was printed
                file.seek(self._position)
                data = file.read()
                self._inode, self._position = inode, file.tell()
        except OSError:
            return b""
        return data

    def follow(self, process: Process) -> None:
        """Print what is added, until the process ends."""
        has_ended = False
        while not has_ended:
            has_ended = process.wait(_PACE)
            write_all(1, self.read())
