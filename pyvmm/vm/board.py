"""The devices of a guest, each at its place in the machine's map, and what they are backed by.

The device tree (`pyvmm.vm.fdt`) tells a guest of the same places: virtio devices take their slots
in the order in which they are plugged here.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pyvmm.arch.gic import GICR_SIZE
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.devices.bus import Bus, IrqLine
from pyvmm.devices.disk import RawDisk
from pyvmm.devices.dma import DmaFault, GuestDma
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.rtc import Mc146818, Pl031
from pyvmm.devices.uart import Uart
from pyvmm.devices.virtio.balloon import VirtioBalloon
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.mmio import VirtioMmio
from pyvmm.devices.virtio.port import PortUser, VirtioPort
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.host.guest import Guest
from pyvmm.host.vgic import Vgic
from pyvmm.host.vgic_mmio import Distributor, Redistributor
from pyvmm.vm import machine
from pyvmm.vm.agent_protocol import PORT_NAME
from pyvmm.vm.machine import MemoryMap
from pyvmm.vm.options import NetworkOptions, VmOptions, disk_serials


class Board:
    """What a guest finds on its bus: what all guests have, and the devices of its options.

    Args:
        resources: told what to close at the end: disks, networks.
        sink: takes what the guest writes to its console, from the thread of a vCPU.
        size: columns and rows of the terminal; (0, 0) if there is none.
        agent: the user of the port for the guest's agent.
        notify: told of a disk whose storage fails; any thread.

    Raises:
        UserError: a disk or network as asked for is not to be had.
    """

    def __init__(
        self,
        options: VmOptions,
        guest: Guest,
        bus: Bus,
        vgic: Vgic,
        resources: ExitStack,
        *,
        sink: Callable[[bytes], None],
        size: tuple[int, int],
        agent: PortUser,
        notify: Callable[[str], None],
    ) -> None:
        self.dma = GuestDma(guest.dma)
        self.devices: dict[str, VirtioDevice] = {}  # by name and slot
        self.hvc: VirtioConsole | None = None
        self.balloon: VirtioBalloon | None = None
        self.port: VirtioPort | None = None
        self._options = options
        self._guest = guest
        self._bus = bus
        self._vgic = vgic
        self._resources = resources
        self._notify = notify
        self._told: set[str] = set()
        self._add_gic(MemoryMap(options.ram_size, options.num_cpus))
        self.uart = self._add_uarts(sink)
        bus.add(machine.RTC_BASE, machine.RTC_SIZE, Mc146818(), "rtc")
        bus.add(machine.PL031_BASE, machine.PL031_SIZE, Pl031(), "pl031")
        self._add_virtio(sink, size, agent)

    def _irq(self, spi: int) -> IrqLine:
        return partial(self._vgic.set_spi, machine.NUM_PRIVATE_INTIDS + spi)

    def _add_gic(self, memory_map: MemoryMap) -> None:
        self._bus.add(machine.GICD_BASE, memory_map.gicd_size, Distributor(self._vgic), "gicd")
        for cpu in range(memory_map.num_cpus):
            base = memory_map.gicr_base + cpu * GICR_SIZE
            self._bus.add(base, GICR_SIZE, Redistributor(self._vgic, cpu), f"gicr{cpu}")

    def _add_uarts(self, sink: Callable[[bytes], None]) -> Uart:
        """Add the serial ports; return the first, which is the console."""
        sinks = [sink] + [_drop] * (machine.NUM_UARTS - 1)
        uarts = [Uart(self._irq(machine.UART_SPI + n), each) for n, each in enumerate(sinks)]
        for index, uart in enumerate(uarts):
            self._bus.add(machine.uart_base(index), machine.UART_SIZE, uart, f"uart{index}")
        return uarts[0]

    def _add_virtio(
        self, sink: Callable[[bytes], None], size: tuple[int, int], agent: PortUser
    ) -> None:
        options = self._options
        for disk, serial in zip(options.disks, disk_serials(options.disks), strict=True):
            image = RawDisk(disk.path, is_read_only=disk.is_read_only)
            self._resources.callback(_close_disk, image)
            device = VirtioBlk(
                image,
                serial.encode(),
                on_failure=partial(self._tell_failure, disk.path),
                is_over=lambda: self._guest.outcome is not None,
            )
            self._plug(device, "blk")
        if options.network is not None:
            self._add_network(options.network)
        if options.console == "virtio":
            self.hvc = VirtioConsole(sink, size)
            self._plug(self.hvc, "hvc")
        if options.has_rng:
            self._plug(VirtioRng(), "rng")
        if options.has_balloon:
            self.balloon = VirtioBalloon(self._release)
            self._plug(self.balloon, "balloon")
        if options.has_agent:
            self.port = VirtioPort(PORT_NAME, agent)
            self._plug(self.port, "agent")

    def _add_network(self, network: NetworkOptions) -> None:
        from pyvmm.devices.virtio.net import VirtioNet  # noqa: PLC0415  only with a network
        from pyvmm.vm.network import open_backend  # noqa: PLC0415

        loop = IoLoop()
        loop.start()
        self._resources.callback(loop.stop)
        backend = open_backend(network, loop)
        self._resources.callback(backend.close)
        card = VirtioNet(backend, network.mac)
        self._plug(card, "net")
        backend.start(card)

    def _plug(self, device: VirtioDevice, name: str) -> None:
        """Put a virtio device into the next slot; the device tree counts them in the same order."""
        slot = len(self.devices)
        transport = VirtioMmio(
            device,
            self.dma,
            self._irq(machine.VIRTIO_SPI + slot),
            access_platform=self._options.realm is not None,
            is_halting=lambda: self._guest.is_halting,
        )
        self.devices[f"{name}{slot}"] = device
        self._bus.add(machine.virtio_base(slot), machine.VIRTIO_STRIDE, transport, f"{name}{slot}")

    def _release(self, addr: int, size: int) -> None:
        try:
            self._guest.release(addr, size)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, size) from fault

    def _tell_failure(self, disk: Path, error: OSError) -> None:
        """Say what is wrong with a disk's storage, each thing once: the guest tries again."""
        line = f"disk {disk}: {error.strerror}; the guest gets I/O errors"
        if line not in self._told:
            self._told.add(line)
            self._notify(line)


def _drop(_data: bytes) -> None:
    """Be the line of a serial port that goes nowhere."""


def _close_disk(disk: RawDisk) -> None:
    """Close a disk; what the guest wrote, and perhaps did not flush, stays."""
    try:
        if not disk.is_read_only:
            disk.flush()
    finally:
        disk.close()
