"""pyvmm: a command-line VMM that boots arm64 guests, in a realm or not."""

__version__ = "0.1.0"
