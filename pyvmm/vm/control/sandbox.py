"""The sandbox of an instance: what its process needs while the guest runs, by its options."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyvmm.arch.confine import calls
from pyvmm.arch.confine.landlock import READ, REMOVE, WRITE, Access, Beneath, python_files
from pyvmm.arch.confine.sandbox import Sandbox
from pyvmm.arch.errors import UserError
from pyvmm.vm.options import VmOptions

_PACKAGES: Final = ("pyvmm", "rmm", "monitor", "hes")
_DEVICES: Final = ("/dev/null", "/dev/zero")
_TEMPORARY: Final = "/var/tmp"  # noqa: S108  where disks keep what is thrown away


def confine(options: VmOptions, home: Path | None, confine_threads: Callable[[int], None]) -> None:
    """Confine this process, which has opened all files of its guest, as its options want.

    Raises:
        UserError: it cannot be confined, and is not to run then.
    """
    if options.sandbox == "off":
        return
    is_strict = options.sandbox == "strict"
    if reason := why_not(options):
        if is_strict:
            raise UserError(f"--sandbox strict: {reason}: omit one of them")
        return
    instance_sandbox(options, home).enter(confine_threads, is_strict=is_strict)


def instance_sandbox(options: VmOptions, home: Path | None) -> Sandbox:
    """Return the sandbox of an instance whose directory is ``home``."""
    restarts = options.on_reboot == "restart"
    files = [*python_files(_PACKAGES), Beneath(Path("/proc/self"), READ)]
    files += [Beneath(Path(each), READ | Access.WRITE_FILE) for each in _DEVICES]
    if home is not None:
        files.append(Beneath(home, WRITE))
        files.append(Beneath(home.parent, Access.READ_FILE | REMOVE))  # its lock; our socket
    if options.restore is not None:
        files.append(Beneath(options.restore, Access.READ_FILE))
    for share in options.directories:
        files.append(Beneath(share.path, READ if share.is_read_only else WRITE))
    files += [Beneath(path.absolute().parent, Access.REMOVE_FILE) for path in _sockets(options)]
    if restarts:
        files += _opened_again(options)
    return Sandbox(files, _calls(options, restarts=restarts), denies_tcp=not restarts)


def why_not(options: VmOptions) -> str:
    """Return why a guest cannot be confined; empty if it can be."""
    if options.on_reboot != "restart":
        return ""
    if options.networks:
        return "--on-reboot restart sets up the network again"
    if any(disk.format == "qcow2" for disk in options.disks):
        return "--on-reboot restart starts qemu-nbd again"
    return ""


def _sockets(options: VmOptions) -> list[Path]:
    """Return the sockets that are removed at the end, outside of the instance's directory."""
    sockets = [port.path for port in options.ports]
    if options.gdb is not None and options.gdb.path is not None:
        sockets.append(options.gdb.path)
    if options.vsock is not None and options.vsock.socket is not None:
        sockets.append(options.vsock.socket)
    return sockets + [each.listen for each in options.networks if each.listen is not None]


def _opened_again(options: VmOptions) -> list[Beneath]:
    """Return what a guest that is started again opens again."""
    opened = [
        Beneath(disk.path, Access.READ_FILE | (0 if disk.is_read_only else Access.WRITE_FILE))
        for disk in options.disks
    ]
    if options.flash is not None:
        opened.append(Beneath(options.flash, Access.READ_FILE | Access.WRITE_FILE))
    if any(disk.is_snapshot for disk in options.disks):
        opened.append(Beneath(Path(os.environ.get("TMPDIR", _TEMPORARY)), WRITE))
    makes = Access.MAKE_SOCK | Access.REMOVE_FILE
    return opened + [Beneath(path.absolute().parent, makes) for path in _sockets(options)]


def _calls(options: VmOptions, *, restarts: bool) -> calls.Calls:
    allowed = {
        **calls.PROGRAM,
        **calls.MEMORY,
        **calls.DESCRIPTORS,
        **calls.CONNECTIONS,
        **calls.FILES,
        **calls.CHILDREN,
        **calls.threads(),
    }
    if options.directories:
        allowed |= calls.SHARES
    if any(disk.format == "qcow2" for disk in options.disks):
        allowed |= calls.SIGNAL_BY_DESCRIPTOR
    if options.vsock is not None:
        allowed |= calls.UNIX_SOCKETS
    if restarts:
        allowed |= {**calls.LISTENERS, **calls.SHARES}
    return allowed
