"""How much of its drivers' bounce pool a realm's devices take.

A realm's drivers copy all data through a pool of memory that the realm shares with the host.  Linux
7.3 makes it as small as a 1024th of RAM (256 KiB for up to 256 MiB, then 512 KiB), in slots of
2 KiB.  Receive buffers keep their slots for as long as the device is there, and a disk request that
does not fit into what is left is tried again for ever.  So a realm's disk asks for little at once,
and no device offers more receive buffers than it needs.  One device of each kind takes at most so
many slots:

- disk: 35, for data, header, status and indirect descriptors
- agent's port: 40, for 16 + 4 pages
- virtio console: 16, for 8 pages
- entropy: 1
- network card: 128, for 64 pages; and many more for frames that no program has read yet, which no
  device can bound: `pyvmm.vm.machine.needs` warns
"""

from typing import Final

#: Of one disk request: 64 KiB in all.
SEGMENT_SIZE: Final = 4096
NUM_SEGMENTS: Final = 16
#: Buffers that wait for frames: Linux maps so many pages for them at a time, even for fewer.
NUM_RECEIVE_BUFFERS: Final = 64
