"""9P transport device: carries the messages of a guest's 9P client to an injected server.

Spec: virtio 1.3, "9P Device"; the messages are the server's matter.
"""

from enum import IntEnum

from pyvmm.devices.virtio.served import ServedDevice

QUEUE_SIZE = 128


class P9Feature(IntEnum):
    """Offered feature bits."""

    MOUNT_TAG = 1 << 0


class VirtioP9(ServedDevice):
    """One queue of requests."""

    device_id = 9
    queue_sizes: tuple[int, ...] = (QUEUE_SIZE,)
    features: int = P9Feature.MOUNT_TAG

    def config(self) -> bytes:
        """Return the tag, after its size."""
        return len(self._tag).to_bytes(2, "little") + self._tag
