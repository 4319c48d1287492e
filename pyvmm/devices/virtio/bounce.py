"""Limits for the use of a realm's bounce pool by its devices.

A realm's drivers copy all data through a pool of memory that the realm shares with the host.  In
Linux up to 7.2 it has 64 MiB.  In Linux 7.3 it has only 1/1024 of RAM (256 KiB for up to 256 MiB,
then 512 KiB), in slots of 2 KiB.  Receive buffers keep their slots as long as the device exists,
and a disk request that does not fit into the rest is retried for ever.  So a disk accepts requests
as the pool allows, and no device has more receive buffers than it needs.  The maximum number of
slots of a small pool for one device of each kind:

- disk: 35, for data, header, status and indirect descriptors
- shared directory: 34 (9P) or 62 (virtio-fs), for the message, its reply and indirect descriptors
- agent's port: 40, for 16 + 4 pages
- virtio console: 16, for 8 pages
- entropy: 1
- power button: 8
- vsock: 48 for 16 received packets, and 33 for each packet that is being sent
- network card: 128, for 64 pages; and many more for frames that no program has read yet, which the
  device cannot limit: `pyvmm.vm.machine.needs` warns
"""

from typing import Final

#: Size and number of the segments of one disk request: 64 KiB in all; or 16 MiB in a large pool,
#: with as many segments as a request of scattered pages needs.
SMALL_REQUEST: Final = 4096, 16
LARGE_REQUEST: Final = 32 << 10, 510
LARGE_POOL: Final = 32 << 20
#: Buffers for packets of vsock.
NUM_VSOCK_BUFFERS: Final = 16
#: Of virtio-fs, for messages of 16 pages and their headers.
FS_QUEUE_SIZE: Final = 32
#: Of one 9P message; it is at least one page.
MAX_MESSAGE: Final = 64 << 10
#: Buffers for received frames; Linux always maps at least this many pages for them.
NUM_RECEIVE_BUFFERS: Final = 64


def request_limits(pool_size: int) -> tuple[int, int]:
    """Return the largest segments of a disk request, in bytes, and their largest number.

    >>> request_limits(512 << 10)
    (4096, 16)
    """
    return LARGE_REQUEST if pool_size >= LARGE_POOL else SMALL_REQUEST
