"""Virtio devices: one state for all transports, one queue implementation, one file per device.

A device processes descriptor chains.  It does not use MMIO, start threads or open files: its host
side is injected.  Every activity, a notification from the guest or an event from the host, runs
inside the state's lock (``with transport: ...`` in a device); at its end the used buffers are
published and the interrupt is raised.  Invalid contents of a queue lead at worst to
DEVICE_NEEDS_RESET.

``state.py`` is common to all transports, ``mmio.py`` has the window of virtio over MMIO.
"""
