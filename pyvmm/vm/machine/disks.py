"""The host's side of a guest's disks: opened as the options say, and closed."""

import errno
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.disk_file import detect_format
from pyvmm.devices.disk_snapshot import SnapshotDisk
from pyvmm.devices.virtio.blk import OwnedDisk
from pyvmm.vm.machine.outside import DiskWorkers
from pyvmm.vm.option_values import DiskOptions

#: Seconds that requests under way get to end, when the guest has ended.
_PATIENCE: Final = 1.0


def open_disk(options: DiskOptions) -> OwnedDisk:
    """Open a disk.

    Raises:
        UserError: it cannot be opened.
    """
    disk = _open_image(options, is_read_only=options.is_kept)
    if not options.is_snapshot:
        return disk
    try:
        return SnapshotDisk(disk)
    except BaseException:
        disk.close()
        raise


def _open_image(options: DiskOptions, *, is_read_only: bool) -> OwnedDisk:
    path, is_direct = options.path, options.is_direct
    if options.format == "qcow2":
        from pyvmm.devices.disk_qcow2 import open_qcow2  # noqa: PLC0415  few disks are

        return open_qcow2(
            path, is_read_only=is_read_only, is_direct=is_direct, backing=options.backing
        )
    if not options.format:
        _check_is_raw(options)
    return RawDisk(path, is_read_only=is_read_only, is_direct=is_direct)


def _check_is_raw(options: DiskOptions) -> None:
    """Refuse an image in another format: a guest would find no file system, and overwrite it.

    A guest that writes to a raw disk can give it any content, so that alone decides nothing.
    """
    found = detect_format(options.path)
    if found == "qcow2":
        raise UserError(
            f"disk {options.path}: in qcow2 format, which its name does not say: give"
            f" {options.path},format=qcow2 if you know where it comes from; otherwise format=raw"
        )
    if found != "raw":
        raise UserError(
            f"disk {options.path}: in {found} format: convert it:"
            f" qemu-img convert -O qcow2 {options.path} disk.qcow2"
        )


def close_disk(disk: OwnedDisk, workers: DiskWorkers) -> None:
    """Close a disk, and keep what the guest wrote even if it did not flush it.

    Raises:
        OSError: the host's storage fails, or does not answer.
    """
    if not workers.close(_PATIENCE):
        disk.abandon()
        raise TimeoutError(errno.ETIMEDOUT, "the storage does not answer")
    try:
        if not disk.is_read_only:
            disk.flush()
    finally:
        disk.close()


def check_disks(disks: Sequence[DiskOptions]) -> None:
    """Open and close each disk, to report a mistake before anything is started.

    Raises:
        UserError: a disk cannot be opened, or the guest would have a writable disk twice.
    """
    for disk in disks:
        open_disk(disk).close()
    for first, second in combinations(disks, 2):
        is_written = not (first.is_kept and second.is_kept)
        if is_written and first.path.samefile(second.path):
            raise UserError(
                f"disk {second.path}: given twice: copy the image, or give it with ,ro both times"
            )
