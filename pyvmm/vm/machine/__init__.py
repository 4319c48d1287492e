"""The machine of a VM: its devices, their places, its device tree and its payload."""
