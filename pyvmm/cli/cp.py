"""pyvmm cp: copy files into and out of an instance."""

import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import click

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import start_thread
from pyvmm.cli.common.execution import CHUNK, Execution, start_command
from pyvmm.cli.common.instances import directory, format_os_error
from pyvmm.cli.common.progress import Bar
from pyvmm.cli.common.unpack import unpack
from pyvmm.vm.control.client import Client, Gone, connect
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.name import check_name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PATIENCE: Final = 10.0  # seconds to wait for the agent while the console is silent
_MAX_ERRORS: Final = 4096
_HELP = """Copy files and directories into an instance, or out of it.

One of SOURCE and TARGET is NAME:PATH, with an absolute path in the guest. A directory is copied
with all that is in it. If TARGET is a directory, the copy goes into it; otherwise TARGET is its new
name. Modes, times and symbolic links are kept; files in the guest belong to root, and files here to
you. It requires the agent of the guest's image, and tar there.

Exit code: 0 copied, 2 bad input, 8 the instance is gone, 9 a file cannot be written here.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a guest."""

    name: str
    path: str


@click.command(help=_HELP)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
def cp(*, source: str, target: str) -> None:
    """Copy in the direction that the arguments have."""
    guest_source, guest_target = _parse(source), _parse(target)
    if (guest_source is None) == (guest_target is None):
        raise UserError("give NAME:PATH for one of SOURCE and TARGET, and a path for the other")
    place = guest_source or guest_target
    assert place is not None  # noqa: S101  checked above
    with connect(directory(), place.name) as client, Bar() as bar:
        client.patience = None
        if guest_target is not None:
            Upload(client, bar).run(Path(source), guest_target.path)
        else:
            Download(client, bar).run(place.path, Path(target))


def _parse(text: str) -> Place | None:
    """Return a place in a guest; None for a path here, which may contain a colon after a slash."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name:
        return None
    check_name(name)
    if not path.startswith("/"):
        raise UserError(f"{text}: give an absolute path in the guest: {name}:/{path}")
    return Place(name, path)


def _run(client: Client, *argv: str) -> tuple[int, bytes, bytes]:
    """Run a short command in the guest; return its exit code, output and errors."""
    kept = {"stdout": bytearray(), "stderr": bytearray()}

    def keep(stream: str, data: bytes) -> None:
        kept[stream] += data[: _MAX_ERRORS - len(kept[stream])]

    execution = Execution(client, start_command(client, argv, {}, "", _PATIENCE), keep)
    execution.end_input()
    return execution.follow(), bytes(kept["stdout"]), bytes(kept["stderr"])


class _Sink(io.BytesIO):
    """Where tarfile writes its stream, in pieces of `CHUNK` bytes."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        super().__init__()
        self._take = take

    def write(self, data: "ReadableBuffer", /) -> int:
        """Pass data on."""
        taken = bytes(data)
        self._take(taken)
        return len(taken)


class Upload:
    """A copy into a guest, as a tar stream to a tar there."""

    def __init__(self, client: Client, bar: Bar) -> None:
        self._client = client
        self._bar = bar
        self._errors = bytearray()
        self._problem: UserError | None = None

    def run(self, source: Path, target: str) -> None:
        """Copy a file or a directory.

        Raises:
            UserError: it cannot be read here, or not written there.
            Failure: the instance is gone.
        """
        total = sum(size for _, size in _walk(source))
        parent, name = self._resolve(source, target)
        argv = ("tar", "-x", "--no-same-owner", "-p", "-f", "-", "-C", parent)
        number = start_command(self._client, argv, {}, "", _PATIENCE)
        execution = Execution(self._client, number, self._keep)
        packer = threading.Thread(
            target=self._pack, args=(execution, source, name, total), daemon=True
        )
        start_thread(packer)
        code = execution.follow()
        if self._problem is not None:
            raise self._problem
        if code:
            words = " ".join(self._errors.decode(errors="replace").split())
            raise UserError(f"tar in the guest failed: {words or f'exit status {code}'}")

    def _resolve(self, source: Path, target: str) -> tuple[str, str]:
        """Return the directory in the guest, and the name there."""
        code, _, _ = _run(self._client, "test", "-d", target)
        if not code:
            return target, source.resolve().name
        if target.endswith("/"):
            raise UserError(f"{target} is not a directory of the guest: create it first")
        path = PurePosixPath(target)
        return str(path.parent), path.name

    def _keep(self, stream: str, data: bytes) -> None:
        if stream == "stderr":
            self._errors += data[: _MAX_ERRORS - len(self._errors)]

    def _pack(self, execution: Execution, source: Path, name: str, total: int) -> None:
        """Write the tar stream; in a thread of its own."""
        done = 0

        def write(data: bytes) -> None:
            nonlocal done
            execution.write(data)
            done += len(data)
            self._bar.report(source.name, min(done / (total or 1), 1.0))

        try:
            with tarfile.open(fileobj=_Sink(write), mode="w|", bufsize=CHUNK) as tar:
                tar.add(source, name, filter=_of_root)
            execution.end_input()
        except Gone:
            pass  # the reader of the notifications sees it too
        except OSError as error:
            self._problem = UserError(f"{format_os_error(error)}: the copy is incomplete")
            execution.post("exec_signal", signal=9)


def _walk(source: Path) -> Iterator[tuple[Path, int]]:
    """Yield what is to be copied, with sizes.

    Raises:
        UserError: it does not exist.
    """
    try:
        status = source.lstat()
    except OSError as error:
        raise UserError(f"{format_os_error(error)}: check the path") from None
    yield source, status.st_size
    for directory_, _, names in os.walk(source):
        for name in names:
            path = Path(directory_, name)
            yield path, path.lstat().st_size


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return a member that belongs to root; None for what is not copied: devices and sockets."""
    if member.ischr() or member.isblk():
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


class Download:
    """A copy from a guest, as a tar stream from a tar there; the stream is not trusted."""

    def __init__(self, client: Client, bar: Bar) -> None:
        self._client = client
        self._bar = bar
        self._errors = bytearray()
        self._problem: UserError | Failure | None = None
        self._done = 0
        reader, self._writer = os.pipe()
        self._stream = os.fdopen(reader, "rb", buffering=CHUNK)

    def run(self, source: str, target: Path) -> None:
        """Copy a file or a directory.

        Raises:
            UserError: it cannot be read there, or is not what tar writes.
            Failure: the instance is gone, or a file cannot be written here.
        """
        path = PurePosixPath(source)
        into = target / (path.name or "root") if target.is_dir() else target
        self._name = into.name
        argv = ("tar", "-c", "-f", "-", "-C", str(path.parent), "--", path.name or ".")
        number = start_command(self._client, argv, {}, "", _PATIENCE)
        execution = Execution(self._client, number, self._take)
        unpacker = threading.Thread(target=self._unpack, args=(path.name or ".", into), daemon=True)
        start_thread(unpacker)
        try:
            code = execution.follow()
        finally:
            os.close(self._writer)
            unpacker.join()
        words = " ".join(self._errors.decode(errors="replace").split())
        if code:
            raise UserError(f"tar in the guest failed: {words or f'exit status {code}'}")
        if self._problem is not None:
            raise self._problem

    def _take(self, stream: str, data: bytes) -> None:
        if stream == "stderr":
            self._errors += data[: _MAX_ERRORS - len(self._errors)]
            return
        self._done += len(data)
        self._bar.report(f"{self._name} {self._done >> 20} MiB", 0.0)
        view = memoryview(data)
        while view and self._problem is None:
            try:
                view = view[os.write(self._writer, view) :]
            except BrokenPipeError:
                return

    def _unpack(self, name: str, into: Path) -> None:
        """Write the files; in a thread of its own."""
        try:
            unpack(self._stream, name, into)
            while self._stream.read(CHUNK):  # padding
                pass
        except tarfile.TarError as error:
            self._problem = UserError(f"the guest's tar sent an invalid stream: {error}")
        except OSError as error:
            line = f"{format_os_error(error)}: the copy is incomplete"
            self._problem = Failure(ExitCode.STORAGE, line)
        finally:
            self._stream.close()
