"""File system device: carries the messages of a guest's FUSE client to an injected server.

Spec: virtio 1.2, "File System Device"; the messages are the server's matter.  Not implemented: the
notification queue and the DAX window, for which the guest would have to map memory of the host.
"""

from pyvmm.devices.virtio import bounce
from pyvmm.devices.virtio.served import ServedDevice, Server
from pyvmm.devices.workers import Executor

MAX_TAG = 36


class VirtioFs(ServedDevice):
    """A queue for urgent requests (FORGET) and one for all others.

    Args:
        tag: at most 36 bytes, by which the guest mounts it.
        server: the host side.
        executor: does one thing at a time, on the server's thread.
        is_bounced: the driver has a small bounce pool.
    """

    device_id = 26
    queue_sizes: tuple[int, ...] = (128, 512)

    def __init__(
        self, tag: str, server: Server, executor: Executor, *, is_bounced: bool = False
    ) -> None:
        super().__init__(tag, server, executor)
        if is_bounced:  # Linux limits a request by the size of the queue
            self.queue_sizes = (16, bounce.FS_QUEUE_SIZE)

    def config(self) -> bytes:
        """Return the tag and the number of request queues."""
        return self._tag.ljust(MAX_TAG, b"\0")[:MAX_TAG] + (1).to_bytes(4, "little")
