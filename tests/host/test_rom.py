"""ROM of a normal VM: it runs there, its writes are device accesses, and a device may hide it."""

from typing import Final

import pytest

from pyvmm.devices.bus import Bus
from pyvmm.devices.flash import Flash
from pyvmm.host.guest import Guest, GuestConfig, Outcome, RomRegion
from pyvmm.host.vgic import Vgic
from pyvmm.platform import Platform
from tests.core.program import assemble
from tests.host.debug_rig import PATIENCE, RAM_BASE, RAM_SIZE

BANK = 4 << 20
HIDE, SHOW, REPORT = 0x10, 0x14, 0x18

#: Reads the second bank as memory, then as a device, then as memory again.
GUEST = f"""
    mov  x0, #{BANK:#x}
    ldp  x1, x2, [x0]
    str  w1, [x0, #{REPORT}]
    str  w1, [x0, #{HIDE}]
    ldr  w1, [x0, #4]
    str  w1, [x0, #{REPORT}]
    str  wzr, [x0, #{SHOW}]
    ldr  w1, [x0, #4]
    strb w1, [x0, #{REPORT}]
    ldr  x0, =0x84000008
    hvc  #0
"""


class Device:
    """What is on the bus: it logs every access, and hides or shows its memory."""

    def __init__(self) -> None:
        self.vm: Guest | None = None
        self.log: list[tuple[int, int, int]] = []

    def read(self, addr: int, size: int) -> int:
        """Return something else than the memory has."""
        self.log.append((addr - BANK, size, -1))
        return 0xDDCC_BBAA

    def write(self, addr: int, size: int, value: int) -> None:
        """Hide or show the memory."""
        register = addr - BANK
        self.log.append((register, size, value))
        if register in {HIDE, SHOW}:
            assert self.vm is not None
            self.vm.roms[1].set_visible(is_visible=register == SHOW)


@pytest.mark.parametrize("ram_size", [RAM_SIZE, 1 << 30])
def test_code_runs_in_rom_and_writes_are_device_accesses(ram_size: int) -> None:
    """The RAM is elsewhere; all memory is given back at the end."""
    platform = Platform(ram_size, 1)
    free = platform._allocator.free_size
    device = Device()
    roms = (RomRegion(0, BANK, assemble(GUEST)), RomRegion(BANK, BANK, bytes(range(1, 9))))
    config = GuestConfig(1, RAM_BASE, ram_size, (), 0, roms=roms)
    vm = device.vm = platform.new_guest(config, device, Vgic(1), None)
    try:
        vm.start()
        assert vm.wait(PATIENCE) is Outcome.OFF
        assert vm.roms[1].read(0, 8) == bytes(range(1, 9))
    finally:
        vm.close()
    assert device.log == [
        (REPORT, 4, 0x0403_0201),
        (HIDE, 4, 0x0403_0201),
        (4, 4, -1),
        (REPORT, 4, 0xDDCC_BBAA),
        (SHOW, 4, 0),
        (REPORT, 1, 5),
    ]
    assert platform._allocator.free_size == free


#: The second vCPU asks the flash for its status again and again, while the first reads the array:
#: it may see either of both, and nothing else.
ROUNDS: Final = 200
CONTENT: Final = 0x55AA_1234
RACE: Final = f"""
    mov  x20, #{BANK:#x}
    ldr  x0, =0xc4000003
    mov  x1, #1
    mov  x2, #0x100
    hvc  #0
read:
    ldr  w1, [x20, #64]
    ldr  w2, ={CONTENT:#x}
    cmp  w1, w2
    b.eq next
    ldr  w2, =0x800080
    cmp  w1, w2
    b.ne off
next:
    ldr  x3, ={RAM_BASE:#x}
    ldr  x4, [x3]
    cmp  x4, #{ROUNDS}
    b.lo read
off:
    ldr  x3, ={RAM_BASE + 8:#x}
    str  x1, [x3]
    ldr  x0, =0x84000008
    hvc  #0
"""
WRITER: Final = f"""
    mov  x20, #{BANK:#x}
    ldr  x21, ={RAM_BASE:#x}
    mov  x5, #0
again:
    ldr  w1, =0x700070
    str  w1, [x20]
    ldr  w2, [x20]
    ldr  w1, =0xff00ff
    str  w1, [x20]
    add  x5, x5, #1
    str  x5, [x21]
    b    again
"""


def test_a_vcpu_reads_the_array_while_another_gives_commands() -> None:
    """The bank disappears from its memory and comes back, also between two of its accesses."""
    platform = Platform(RAM_SIZE, 2)
    bus = Bus(platform.events)
    code = assemble(RACE)
    assert len(code) <= 0x100
    data = bytes(64) + CONTENT.to_bytes(4, "little")
    roms = (
        RomRegion(0, BANK, code.ljust(0x100, b"\0") + assemble(WRITER)),
        RomRegion(BANK, BANK, data),
    )
    config = GuestConfig(2, RAM_BASE, RAM_SIZE, (), 0, roms=roms)
    vm = platform.new_guest(config, bus, Vgic(2), None)
    bus.add(BANK, BANK, Flash(vm.roms[1]), "flash")
    try:
        vm.start()
        assert vm.wait(PATIENCE) is Outcome.OFF
        rounds, last = (int.from_bytes(vm.dma.read(RAM_BASE + n, 8), "little") for n in (0, 8))
    finally:
        vm.close()
    assert rounds >= ROUNDS
    assert last in {CONTENT, 0x80_0080}
