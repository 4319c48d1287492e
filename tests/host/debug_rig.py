"""A guest on the real core that runs a few lines of assembly, for those who debug it.

A normal VM, or a realm with the real RMM that may be debugged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Self

from pyvmm.arch.machine import GuestRegisters
from pyvmm.host.debug import DebugPort, Resume, Stop
from pyvmm.host.guest import GuestConfig, RealmOptions, Segment
from pyvmm.host.vgic import Vgic
from pyvmm.platform import Platform
from tests.core.program import assemble
from tests.host.fakes import FakeBus

RAM_BASE = 0x8000_0000
RAM_SIZE = 2 << 20
CODE = RAM_BASE
DATA = RAM_BASE + 0x1_0000
DATA_SIZE = 0x8000  # of what a realm has from the beginning
UART = 0x0100_0000
CPU_ON, SYSTEM_OFF = 0xC400_0003, 0x8400_0008
PATIENCE = 20.0  # seconds

#: Each vCPU counts for ever in its own word of DATA; the boot vCPU turns the others on first.
COUNTERS = """
    mov  x19, x0
    mov  x20, #0
next:
    add  x20, x20, #1
    cmp  x20, x19
    b.hs start
    ldr  x0, =0xC4000003
    mov  x1, x20
    adr  x2, start
    mov  x3, x20
    hvc  #0
    b    next
start:
    mrs  x5, mpidr_el1
    and  x5, x5, #0xff
    ldr  x6, =0x80010000
    add  x6, x6, x5, lsl #3
    mov  x7, #0
count:
    add  x7, x7, #1
    str  x7, [x6]
    bl   leaf
    b    count
leaf:
    ret
"""
#: Offsets of its labels.
START, COUNT, STORE, CALL, LEAF = 0x2C, 0x40, 0x44, 0x48, 0x50


class Rig:
    """The guest, built and not started yet; a context manager that ends it."""

    def __init__(
        self, text: str = COUNTERS, num_cpus: int = 1, *, realm: RealmOptions | None = None
    ) -> None:
        """``text`` calls firmware by HVC; in a realm it is SMC."""
        self.is_realm = realm is not None
        self.platform = Platform(RAM_SIZE, num_cpus)
        self.machine = self.platform.machine
        self.bus = FakeBus(a1000004=0x80)
        code = assemble(text.replace("hvc ", "smc ") if realm else text)
        segments = (Segment(CODE, code), Segment(DATA, bytes(DATA_SIZE)))
        config = GuestConfig(num_cpus, RAM_BASE, RAM_SIZE, segments, CODE, (num_cpus, 0, 0, 0))
        self.vm = self.platform.new_guest(config, self.bus, Vgic(num_cpus), realm)
        self.vm.build()
        self.port: DebugPort = self.vm.debug_port()
        self.stopped = Event()
        #: Where there is nothing more to be read.
        self.memory_end = DATA + DATA_SIZE if realm else RAM_BASE + RAM_SIZE

    def attach(self) -> None:
        """Attach a debugger, which stops the guest."""
        self.port.attach(self.stopped.set)

    def start(self) -> None:
        """Start the vCPUs."""
        self.vm.start()

    def go(self, *actions: Resume) -> Stop:
        """Resume, by default all, and wait for the next stop."""
        self.stopped.clear()
        self.port.resume(actions or [Resume.RUN] * self.port.num_cpus)
        assert self.stopped.wait(PATIENCE), "nothing stopped the guest"
        self.port.hold()
        self.stopped.clear()
        stop = self.port.take_stop()
        assert stop is not None
        return stop

    def put(self, address: int, data: bytes) -> None:
        """Write memory."""
        with self.port.still():
            self.port.write(0, address, data)

    @contextmanager
    def changed(self, cpu: int = 0) -> Iterator[GuestRegisters]:
        """Yield the registers of a vCPU, and set the changed ones."""
        registers = self.port.registers(cpu)
        yield registers
        self.port.set_registers(cpu, registers)

    def counter(self, cpu: int = 0) -> int:
        """Return how far a vCPU has counted."""
        with self.port.still():
            return int.from_bytes(self.port.read(cpu, DATA + 8 * cpu, 8), "little")

    def all_count(self) -> bool:
        """Check whether every vCPU has started to count."""
        return all(self.counter(cpu) for cpu in range(self.port.num_cpus))

    def pc(self, cpu: int = 0) -> int:
        """Return where a vCPU is, as an offset in the code."""
        return self.port.registers(cpu).pc - CODE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vm.stop()
        assert self.vm.wait(PATIENCE) is not None
        self.vm.close()
