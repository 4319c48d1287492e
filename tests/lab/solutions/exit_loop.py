"""A solution of exercise exit-loop."""

from pyvmm.arch.machine import Pe, PeContext
from pyvmm.lab.bare import Device

SYNC, BUDGET = 0, 2
DEVICE = 0x0900_0000


def run(pe: Pe, context: PeContext, device: Device) -> str:
    """Run to the end."""
    while True:
        leave = pe.run(context, 10_000)
        if leave.reason == BUDGET:
            continue
        kind = leave.esr >> 26
        if leave.reason == SYNC and kind == 0x24 and leave.esr >> 24 & 1:
            access(
                context, leave.esr, (leave.hpfar & 0xFF_FFFF_FFF0) << 8 | leave.far & 0xFFF, device
            )
            context.pc += 4
        elif leave.reason == SYNC and kind == 0x16 and context.x[0] & 0xFFFF_FFFF == 0x8400_0008:
            return "off"
        else:
            return "stopped"


def access(context: PeContext, esr: int, address: int, device: Device) -> None:
    """Perform a load or a store."""
    size, register = 1 << (esr >> 22 & 3), esr >> 16 & 31
    offset = address - DEVICE
    if esr >> 6 & 1:
        value = 0 if register == 31 else context.x[register]
        device.write(offset, size, value & (1 << 8 * size) - 1)
        return
    value = device.read(offset, size)
    if esr >> 21 & 1 and value >> 8 * size - 1:
        value |= (1 << (64 if esr >> 15 & 1 else 32)) - (1 << 8 * size)
    if register != 31:
        context.x[register] = value
