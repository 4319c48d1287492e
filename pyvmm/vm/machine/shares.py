"""The host's side of the directories that a guest shares."""

import errno
from pathlib import Path
from typing import Final

from pyvmm.devices.p9_server import P9Server
from pyvmm.devices.shared_directory import SharedDirectory
from pyvmm.devices.workers import Workers

#: Seconds that the request under way gets to end, when the guest has ended.
_PATIENCE: Final = 1.0


def close_share(server: P9Server, directory: SharedDirectory, workers: Workers, path: Path) -> None:
    """Close a shared directory.

    Raises:
        OSError: the host's storage does not answer.
    """
    if not workers.close(_PATIENCE):
        raise TimeoutError(errno.ETIMEDOUT, f"{path} does not answer")
    server.reset()
    directory.close()
