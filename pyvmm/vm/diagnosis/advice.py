"""Likely causes of a guest's failure, as far as the host can see them, and remedies.

The host counts the exits of the guest by kind; of a realm it knows nothing else.
"""

import re
from collections.abc import Sequence
from typing import Final

from pyvmm.host.guest import ExitKind
from pyvmm.vm.memory_map import KVMTOOL, Machine
from pyvmm.vm.options import VmOptions

#: A silent guest with more faults than this does not just probe the hardware.
MANY_FAULTS: Final = 1000

_NO_PROGRAM: Final = (
    "the root file system has no program to start with, or one that is not for arm64: check the"
    " disk and init="
)
_FIRST_PROGRAM_ENDED: Final = (
    "the first program of the guest ended: its last lines on the console say why; init= chooses"
    " another"
)
_SERROR: Final = (
    "an SError: `pyvmm debug --nmi` sends one, and so does an access to memory that does not exist"
)
#: Kernel messages and their causes; the first match counts.
_PANICS: Final = (
    (r"No working init found|Requested init ", _NO_PROGRAM),
    (r"Attempted to kill init", _FIRST_PROGRAM_ENDED),
    (r"(?i)out of memory|deadlocked on memory|swiotlb", "too little memory: give more with -m"),
    (r"sysrq triggered crash", "the panic was requested (SysRq c)"),
    (r"SError", _SERROR),
)


def explain(options: VmOptions, exits: Sequence[int]) -> str:
    """Return the likely cause of a guest's silence and a remedy; ``exits`` by ``ExitKind``."""
    if options.realm is not None:
        return _explain_realm(options, exits)
    if exits[ExitKind.OTHER] >= MANY_FAULTS:
        machine = options.layout.machine
        return (
            "it faults over and over, like a kernel built for another machine; on this machine RAM"
            f" begins at {machine.ram_base:#x} and a {_uart_name(machine)} UART is at"
            f" {machine.uart.base:#x} (--dump-dtb shows the rest)"
        )
    if exits[ExitKind.MMIO]:
        if _console(options) in options.bootargs:
            return "it uses devices, but stops before it uses its console; try -p earlycon"
        return f"it uses devices, but writes to another console; try {_console(options)} with -p"
    return (
        "it never used a device: the kernel is damaged, or stops before it uses its console; try"
        " -p earlycon, and pyvmm debug or --gdb to see where it is"
    )


def _explain_realm(options: VmOptions, exits: Sequence[int]) -> str:
    alias = 1 << options.layout.ipa_bits - 1
    machine = options.layout.machine
    driver, uart = ("uart,mmio" if machine is KVMTOOL else "pl011"), machine.uart.base
    earlycon = f"earlycon={driver},{uart | alias:#x}"
    if re.search(rf"earlycon=\S*,0x0*{uart:x}\b", options.bootargs):
        return f"a realm cannot reach the address of its earlycon=; try {earlycon}"
    if exits[ExitKind.MMIO] or exits[ExitKind.RIPAS] or exits[ExitKind.HOST_CALL]:
        if _console(options) in options.bootargs:
            return (
                "it calls its host, but stops before it uses its console; try -p with"
                f" {earlycon}, which replaces all parameters in a realm"
            )
        return (
            f"it calls its host, but writes to another console; try {_console(options)} with"
            f" -p, which replaces all parameters in a realm, or {earlycon}"
        )
    return (
        "it asked its host only for memory, like a damaged kernel or one without realm support"
        " (Linux has it from 6.13 on); try it without --realm, or with"
        f" -p {earlycon}"
    )


def _console(options: VmOptions) -> str:
    return f"console={'hvc0' if options.console == 'virtio' else options.serial_name}"


def _uart_name(machine: Machine) -> str:
    return "16550" if machine is KVMTOOL else "PL011"


def explain_panic(options: VmOptions, message: str) -> str:
    """Return the cause of a kernel panic with this message, and a remedy."""
    if "Unable to mount root fs" in message:
        return _explain_no_root(options)
    for pattern, cause in _PANICS:
        if re.search(pattern, message):
            return cause
    return "the call trace on the console shows where it happened"


def _explain_no_root(options: VmOptions) -> str:
    if options.rootfs is not None:
        return (
            f"the kernel or its initial RAM disk has no {options.rootfs.protocol} file system"
            " (Debian's cloud kernel has no 9p: give --rootfs DIR,virtiofs), or -p replaces root=:"
            f" add {options.rootfs.root_parameters}"
        )
    if not options.disks and options.initrd is None:
        return "the guest has neither a disk (-d) nor an initial RAM disk (-i)"
    if options.disks and "root=" not in options.bootargs:
        reason = "-p replaces a realm's default parameters" if options.realm else "--nodefaults"
        return f"the kernel parameters have no root= ({reason}): add root=/dev/vda with -p"
    if options.initrd is None:
        return (
            "the kernel has no driver for the disk, or root= names another: give the kernel's"
            " initial RAM disk with -i, and root=/dev/vda for the first disk"
        )
    return "the initial RAM disk is not for this kernel, or root= names a disk that does not exist"
