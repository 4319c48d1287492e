"""Virtio devices: one state behind every transport, one queue, one file per device.

A device is logic over descriptor chains.  It knows no MMIO, starts no thread and opens no file:
its host side is injected.  Every activity, a notification from the guest or an event from the
host, runs inside the state's lock (``with transport: ...`` in a device), which ends by publishing
the used buffers and raising the interrupt.  Whatever a driver puts into a queue, the worst that
happens is DEVICE_NEEDS_RESET.

``state.py`` is what all transports share, ``mmio.py`` the window of virtio over MMIO.
"""
