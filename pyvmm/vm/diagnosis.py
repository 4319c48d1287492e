"""What a guest that says nothing looks like from outside, and what its user can try.

The host knows how often the guest stopped running, and for what; of a realm it knows no more.
"""

from collections.abc import Sequence
from typing import Final

from pyvmm.host.guest import ExitKind
from pyvmm.vm.machine import RAM_BASE, UART_BASE, MemoryMap
from pyvmm.vm.options import VmOptions

#: So many exceptions sent into a guest that has not said a word are no probing of the hardware.
MANY_FAULTS: Final = 1000


def explain(options: VmOptions, exits: Sequence[int]) -> str:
    """Return what a silent guest looks like and what to try; ``exits`` by ``ExitKind``."""
    if options.realm is not None:
        return _explain_realm(options, exits)
    if exits[ExitKind.OTHER] >= MANY_FAULTS:
        return (
            "it faults over and over, as a kernel does that is built for another machine; here RAM"
            f" begins at {RAM_BASE:#x} and a 16550 UART is at {UART_BASE:#x} (--dump-dtb has the"
            " rest)"
        )
    if exits[ExitKind.MMIO]:
        return f"it uses devices, but writes to another console; try {_console(options)} with -p"
    return (
        "it never used a device: the kernel is damaged, or does not get as far as its console; try"
        " -p earlycon, and pyvmm debug or --gdb to see where it is"
    )


def _explain_realm(options: VmOptions, exits: Sequence[int]) -> str:
    alias = 1 << MemoryMap(options.ram_size, options.num_cpus).ipa_bits - 1
    earlycon = f"earlycon=uart,mmio,{UART_BASE | alias:#x}"
    if exits[ExitKind.MMIO] or exits[ExitKind.RIPAS] or exits[ExitKind.HOST_CALL]:
        return (
            f"it speaks to its host, but writes to another console; try {_console(options)} with"
            f" -p, which replaces all parameters in a realm, or {earlycon}"
        )
    return (
        "it asked its host for nothing but memory, as a kernel does that is not made for realms"
        " (Linux is from 6.13 on) or that is damaged; try it without --realm, or with"
        f" -p {earlycon}"
    )


def _console(options: VmOptions) -> str:
    return "console=hvc0" if options.console == "virtio" else "console=ttyS0"
