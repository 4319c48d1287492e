"""Virtio devices: one transport, one queue, one file a device.

A device is logic over descriptor chains.  It knows no MMIO, starts no thread and opens no file:
its host side is injected.  Every activity, a notification from the guest or an event from the
host, runs inside the transport's lock (``with transport: ...``), which ends by publishing the
used buffers and raising the interrupt.  Whatever a driver puts into a queue, the worst that
happens is DEVICE_NEEDS_RESET.
"""
