"""qcow2 disks with their backing files, through qemu-nbd(8).

An image's header may name any file of the host, so this never lets qemu-nbd follow it: each file of
the chain is opened and locked here, if it may be used, and qemu-nbd gets the chain of open files.
A backing file must be in its image's directory, unless the user names it.

qemu-nbd ends when its last client leaves, so it never outlives this process, however that ends.
"""

import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from pyvmm.arch.confine.program import confined
from pyvmm.arch.errors import UserError
from pyvmm.arch.system import wait_for
from pyvmm.arch.text import printable
from pyvmm.devices.disk_file import open_disk_file
from pyvmm.devices.nbd import NUM_CONNECTIONS, NbdDisk

FORMATS: Final = ("raw", "qcow2")
#: Files of one chain; a real one has a few.
MAX_LAYERS: Final = 32
_PATIENCE: Final = 30  # seconds for a program that usually takes a few hundredths


class _Data(msgspec.Struct):
    data_file: str | None = msgspec.field(name="data-file", default=None)


class _Specific(msgspec.Struct):
    data: _Data


class _Info(msgspec.Struct):
    """What `qemu-img info` prints about an image."""

    backing_file: str | None = msgspec.field(name="backing-filename", default=None)
    backing_format: str | None = msgspec.field(name="backing-filename-format", default=None)
    specific: _Specific | None = msgspec.field(name="format-specific", default=None)


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a chain, open and locked."""

    path: Path
    fd: int
    format: str

    @property
    def file(self) -> dict[str, str]:
        """The file, for QEMU's programs."""
        is_device = stat.S_ISBLK(os.fstat(self.fd).st_mode)
        driver = "host_device" if is_device else "file"
        return {"driver": driver, "filename": f"/proc/self/fd/{self.fd}"}


class Qcow2Disk(NbdDisk):
    """A disk of a qemu-nbd of its own.

    Raises:
        OSError: it has ended already.
    """

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(path)
        try:
            self._process = os.pidfd_open(pid)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        """Leave qemu-nbd, and wait until it has closed the image, which may be used again then."""
        super().close()
        wait_for(self._process, select.POLLIN, _PATIENCE)
        os.close(self._process)

    def abandon(self) -> None:
        """End qemu-nbd, and with it the requests that do not end."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        self.close()


def open_qcow2(
    path: Path, *, is_read_only: bool = False, is_direct: bool = False, backing: Path | None = None
) -> Qcow2Disk:
    """Open a qcow2 image.

    Args:
        path: its name.
        is_read_only: do not write to it.
        is_direct: do not use the host's page cache.
        backing: its backing file, instead of the one that it names.

    Raises:
        UserError: a file of the chain cannot be used, or qemu-nbd is not installed.
    """
    layers = open_chain(path, is_read_only=is_read_only, backing=backing)
    try:
        return _serve(layers, is_read_only=is_read_only, is_direct=is_direct)
    finally:
        for layer in layers:
            os.close(layer.fd)  # qemu-nbd has them, and so the locks


def open_chain(path: Path, *, is_read_only: bool, backing: Path | None = None) -> list[Layer]:
    """Open an image and its backing files; see `open_qcow2`."""
    with ExitStack() as opened:
        layers: list[Layer] = []
        for layer in _layers(path, backing, is_read_only=is_read_only):
            opened.callback(os.close, layer.fd)
            layers.append(layer)
        opened.pop_all()
    return layers


def _layers(path: Path, trusted: Path | None, *, is_read_only: bool) -> Iterator[Layer]:
    """Open one file of a chain after the other; the caller closes them."""
    image, format_ = path, "qcow2"
    seen: set[tuple[int, int]] = set()
    while True:
        if seen and _identity(path.stat()) in seen:
            raise UserError(f"disk {image}: its backing files form a loop at {path}")
        if len(seen) == MAX_LAYERS:
            raise UserError(f"disk {image}: has more than {MAX_LAYERS - 1} backing files")
        fd = open_disk_file(path, is_read_only=is_read_only or bool(seen))
        layer = Layer(path, fd, format_)
        yield layer
        seen.add(_identity(os.fstat(fd)))
        info = _inspect(layer) if format_ == "qcow2" else _Info()
        if info.backing_file is None:
            return
        path, format_ = _backing(layer, info, trusted)
        trusted = None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _backing(layer: Layer, info: _Info, trusted: Path | None) -> tuple[Path, str]:
    """Return path and format of an image's backing file, if it may be used."""
    name = printable(info.backing_file or "")
    if info.backing_format not in FORMATS:
        raise UserError(
            f"disk {layer.path}: its backing file {name} has no format that is supported: set it:"
            f" qemu-img rebase -u -b {name} -F qcow2 {layer.path}"
        )
    if trusted is not None:
        return trusted, info.backing_format
    directory = Path(os.path.realpath(layer.path)).parent
    path = Path(os.path.realpath(directory / (info.backing_file or "")))
    if not path.is_relative_to(directory):
        raise UserError(
            f"disk {layer.path}: its backing file {name} is not in its directory: if you trust the"
            f" image, give {layer.path},backing={name}"
        )
    if not path.exists():
        raise UserError(f"disk {layer.path}: its backing file {name} does not exist")
    return path, info.backing_format


def _inspect(layer: Layer) -> _Info:
    """Return what an image's header says, without opening other files.

    Raises:
        UserError: it is not a qcow2 image, damaged, or keeps its data in another file.
    """
    node = {"driver": "qcow2", "file": layer.file, "backing": None}
    words = ("qemu-img", "info", "--output=json", "--force-share", _describe(node))
    output = _run(layer.path, words, [layer.fd], [layer.path])
    try:
        info = msgspec.json.decode(output, type=_Info)
    except msgspec.DecodeError:
        raise UserError(f"disk {layer.path}: its header is invalid") from None
    if info.specific is not None and info.specific.data.data_file is not None:
        raise UserError(
            f"disk {layer.path}: keeps its data in another file: convert it:"
            f" qemu-img convert -O qcow2 {layer.path} NEW"
        )
    return info


def _describe(node: object) -> str:
    return "json:" + msgspec.json.encode(node).decode()


def _serve(layers: Sequence[Layer], *, is_read_only: bool, is_direct: bool) -> Qcow2Disk:
    """Start qemu-nbd for a chain, and connect to it."""
    node: dict[str, object] | None = None
    for layer in reversed(layers):
        cache = {"direct": is_direct}
        node = {"driver": layer.format, "file": {**layer.file, "cache": cache}} | (
            {"backing": node} if layer.format == "qcow2" else {}
        )
        if layer is layers[0]:
            node |= {"discard": "unmap"}
    with tempfile.TemporaryDirectory(prefix="pyvmm-") as directory:
        path, pid_file = f"{directory}/nbd", Path(directory, "pid")
        words = ["qemu-nbd", "--fork", f"--socket={path}", f"--pid-file={pid_file}"]
        words += [f"--shared={NUM_CONNECTIONS}", *(["--read-only"] if is_read_only else [])]
        files = [Path(directory), *(layer.path for layer in layers)]
        _run(layers[0].path, [*words, _describe(node)], [layer.fd for layer in layers], files)
        try:
            return Qcow2Disk(path, int(pid_file.read_text()))
        except OSError as error:
            raise UserError(f"disk {layers[0].path}: qemu-nbd: {error.strerror}") from None


def _run(path: Path, words: Sequence[str], fds: Sequence[int], files: Sequence[Path] = ()) -> bytes:
    """Run a program of QEMU for a disk, which may open these files; return its output.

    Its messages go to a file: a process that it leaves in the background may keep a pipe open.
    """
    if shutil.which(words[0]) is None:
        raise UserError(f"disk {path}: qcow2 needs {words[0]}: install the package qemu-utils")
    with tempfile.TemporaryFile() as messages:
        try:
            done = subprocess.run(
                confined(words, files),
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if words[0] == "qemu-img" else subprocess.DEVNULL,
                stderr=messages,
                timeout=_PATIENCE,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"disk {path}: {words[0]} could not be run: {error}") from None
        if not done.returncode:
            return done.stdout or b""
        messages.seek(0)
        raise UserError(f"disk {path}: {_reason(messages.read(1 << 16), done.returncode)}")


def _reason(messages: bytes, status: int) -> str:
    """Return what QEMU says, without the description of the chain that precedes it."""
    lines = messages.decode(errors="replace").strip().splitlines()
    if not lines:
        return f"exit status {status}"
    return printable(lines[0].rpartition("}': ")[2])
