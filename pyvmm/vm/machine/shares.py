"""The host's side of the directories that a guest shares: a server for each, with its thread."""

import errno
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from pyvmm.arch.system import open_file_budget
from pyvmm.devices.fuse_server import FuseServer
from pyvmm.devices.p9_server import MAX_MSIZE, P9Server
from pyvmm.devices.shared_directory import SharedDirectory
from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.fs import VirtioFs
from pyvmm.devices.virtio.p9 import VirtioP9
from pyvmm.devices.virtio.served import Server
from pyvmm.devices.workers import Workers
from pyvmm.vm.options import VmOptions
from pyvmm.vm.share_options import Protocol, ShareOptions, of_protocol

#: Seconds that the request under way gets to end, when the guest has ended.
_PATIENCE: Final = 1.0
#: Seconds for which a guest may keep what it knows of files; of its root, others change nothing.
_LIFETIME, _ROOT_LIFETIME = 1, 3600


def open_p9(options: VmOptions, index: int, resources: ExitStack) -> VirtioP9:
    """Make the device for one of the directories that are shared through 9P.

    Raises:
        UserError: it cannot be opened.
    """
    share = of_protocol(options.directories, Protocol.P9)[index]
    limit = MAX_MSIZE if options.realm is None else bounce.MAX_MESSAGE
    files, max_open = _open(options, share)
    server = P9Server(files, max_msize=limit, max_open=max_open)
    return VirtioP9(share.tag, server, _serve(share, files, server, resources))


def open_fs(options: VmOptions, index: int, resources: ExitStack) -> VirtioFs:
    """Make the device for one of the directories that are shared through virtio-fs.

    Raises:
        UserError: it cannot be opened.
    """
    share = of_protocol(options.directories, Protocol.VIRTIOFS)[index]
    files, max_open = _open(options, share)
    lifetime = _ROOT_LIFETIME if share.is_root else _LIFETIME
    server = FuseServer(files, lifetime=lifetime, max_open=max_open)
    workers = _serve(share, files, server, resources)
    return VirtioFs(share.tag, server, workers, is_bounced=options.realm is not None)


def _open(options: VmOptions, share: ShareOptions) -> tuple[SharedDirectory, int]:
    """Open a directory; return how many of its files may be open."""
    budget = open_file_budget() // len(options.directories) // 2
    files = SharedDirectory(share.path, is_read_only=share.is_read_only, max_handles=budget)
    return files, budget


def _serve(
    share: ShareOptions, files: SharedDirectory, server: Server, resources: ExitStack
) -> Workers:
    """Make the thread of a server; close both at the end."""
    workers = Workers(f"pyvmm-{share.protocol}", max_threads=1)
    resources.callback(_close, server, files, workers, share.path)
    return workers


def _close(server: Server, files: SharedDirectory, workers: Workers, path: Path) -> None:
    """Close a directory.

    Raises:
        OSError: the host's storage does not answer.
    """
    if not workers.close(_PATIENCE):
        raise TimeoutError(errno.ETIMEDOUT, f"{path} does not answer")
    server.reset()
    files.close()
