"""The devices of a guest, each at its place in the memory map, with their host sides.

The places come from the plan (`pyvmm.vm.machine.plan`); the device tree describes the same plan to
the guest.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyvmm.arch.errors import UserError
from pyvmm.arch.gic import GICR_SIZE
from pyvmm.arch.its import GITS_TRANSLATER, ITS_SIZE
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.arch.saved import State, part
from pyvmm.arch.timer import SystemCounter
from pyvmm.devices.bus import Bus, IrqLine, MmioDevice
from pyvmm.devices.dma import DmaFault, GuestDma
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.mc146818 import Mc146818
from pyvmm.devices.pci.host import HostBridge, requester
from pyvmm.devices.pl011 import Pl011
from pyvmm.devices.pl031 import Pl031
from pyvmm.devices.uart import Uart
from pyvmm.devices.virtio.balloon import VirtioBalloon
from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.input import VirtioPowerButton
from pyvmm.devices.virtio.mmio import VirtioMmio
from pyvmm.devices.virtio.pci import VirtioPci
from pyvmm.devices.virtio.port import Port, PortUser, VirtioPorts
from pyvmm.devices.virtio.rng import VirtioRng
from pyvmm.devices.watchdog import Watchdog
from pyvmm.host.guest import Guest
from pyvmm.host.its import Its
from pyvmm.host.vgic import Vgic
from pyvmm.host.vgic_mmio import Distributor, Redistributor
from pyvmm.vm import memory_map
from pyvmm.vm.agent.protocol import PORT_NAME
from pyvmm.vm.machine.disks import close_disk, open_disk
from pyvmm.vm.machine.outside import Outside
from pyvmm.vm.machine.plan import Kind, PlannedDevice, device_plan
from pyvmm.vm.machine.port_socket import port_socket
from pyvmm.vm.memory_map import MemoryMap
from pyvmm.vm.option_values import disk_serials
from pyvmm.vm.options import VmOptions

if TYPE_CHECKING:
    from pyvmm.vm.machine.vsock import VsockEndpoint


@runtime_checkable
class SavedDevice(Protocol):
    """A device whose state can be saved."""

    def save(self) -> State:
        """Return the state."""

    def load(self, state: State) -> None:
        """Set the state."""


class Board:
    """The devices on a guest's bus: the standard ones, and those that its options add.

    Args:
        resources: gets what must be closed at the end: event loop, disks, networks.
        sink: called with the console's output, on any thread but one at a time.
        size: columns and rows of the terminal; (0, 0) if there is none.
        agent: the user of the port for the guest's agent.
        notify: called with a line if a disk's storage fails; any thread.
        counter: of the machine.
        expire: called if the watchdog expires; any thread.
        home: the instance's directory, if it has one.
        outside: time, threads and randomness.

    Raises:
        UserError: a disk cannot be opened, or the network cannot be set up.
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
        counter: SystemCounter,
        expire: Callable[[], None],
        home: Path | None,
        outside: Outside,
    ) -> None:
        self.dma = GuestDma(guest.dma)
        self.devices: dict[str, VirtioDevice] = {}  # by name on the bus
        self.uart: Uart | Pl011
        self.hvc: VirtioConsole | None = None
        self.balloon: VirtioBalloon | None = None
        self.port: Port | None = None
        self.button: VirtioPowerButton | None = None
        self.vsock: VsockEndpoint | None = None
        self._home = home
        self._outside = outside
        self._mapped: dict[str, MmioDevice] = {}
        self._windows: list[VirtioMmio | VirtioPci] = []
        self._options = options
        self._guest = guest
        self._bus = bus
        self._vgic = vgic
        self._resources = resources
        self._sink = sink
        self._size = size
        self._agent = agent
        self._notify = notify
        self._counter = counter
        self._expire = expire
        self._notified: set[str] = set()
        ports = resources.enter_context(ExitStack())  # closed once the event loop has stopped
        self._loop = self._start_loop("pyvmm-io")
        self._set_timer = outside.set_timer(self._loop)
        self._port_sockets = [
            ports.enter_context(port_socket(each, self._loop)) for each in options.ports
        ]
        self._console_loop = self._start_loop("pyvmm-console")  # its reader may block it
        layout = options.layout
        self._bridge = HostBridge(bus, layout.machine.pci_memory)
        self._add_gic(layout)
        for device in device_plan(options):
            self._add(device)

    def _start_loop(self, name: str) -> IoLoop:
        return self._outside.start_loop(name, self._resources)

    def _irq(self, device: PlannedDevice) -> IrqLine:
        """Return the interrupt line of a device that has one."""
        (spi,) = device.place.spis
        return partial(self._vgic.set_spi, memory_map.NUM_PRIVATE_INTIDS + spi)

    def _add_gic(self, layout: MemoryMap) -> None:
        self._bus.add(layout.machine.gicd_base, layout.gicd_size, Distributor(self._vgic), "gicd")
        for cpu in range(layout.num_cpus):
            base = layout.gicr_base + cpu * GICR_SIZE
            self._bus.add(base, GICR_SIZE, Redistributor(self._vgic, cpu), f"gicr{cpu}")
        self._doorbell = layout.its_base + GITS_TRANSLATER
        self._its: Its | None = None
        if self._options.has_its:
            self._its = Its(self._vgic, self._guest.dma, self._is_halting)
            self._mapped["its"] = self._its
            self._bus.add(layout.its_base, ITS_SIZE, self._its, "its")

    def _add(self, device: PlannedDevice) -> None:
        """Make a device, with its host side, and add it to its bus."""
        match device.kind:
            case Kind.UART:
                self._map(device, self._serial_port(device))
            case Kind.PL011:
                set_timer = self._outside.set_timer(self._console_loop)
                self.uart = Pl011(self._irq(device), self._sink, set_timer)
                self._map(device, self.uart)
            case Kind.FLASH:
                self._add_flash(device)
            case Kind.FW_CFG:
                from pyvmm.vm.machine.firmware import make_fw_cfg  # noqa: PLC0415  few guests have it

                self._map(device, make_fw_cfg(self._options, self.dma, self._is_halting))
            case Kind.RTC:
                self._map(device, Mc146818(self._outside.time))
            case Kind.PL031:
                self._map(device, Pl031(self._irq(device), self._set_timer, self._outside.time))
            case Kind.WATCHDOG:
                self._map(
                    device,
                    Watchdog(
                        self._irq(device),
                        self._expire,
                        self._set_timer,
                        self._counter,
                        self._is_halting,
                    ),
                )
            case Kind.PCI:
                self._map(device, self._bridge)
            case Kind.BLK:
                self._plug(device, self._disk(device.index))
            case Kind.P9:
                from pyvmm.vm.machine.shares import open_p9  # noqa: PLC0415  few guests share

                self._plug(device, open_p9(self._options, device.index, self._resources))
            case Kind.FS:
                from pyvmm.vm.machine.shares import open_fs  # noqa: PLC0415

                self._plug(device, open_fs(self._options, device.index, self._resources))
            case Kind.NET:
                self._card(device)
            case Kind.HVC:
                self.hvc = VirtioConsole(self._sink, self._size)
                self._plug(device, self.hvc)
            case Kind.RNG:
                outside = self._outside
                rng = VirtioRng(self._set_timer, outside.entropy, outside.monotonic)
                self._plug(device, rng)
            case Kind.BALLOON:
                self.balloon = VirtioBalloon(self._release)
                self._plug(device, self.balloon)
            case Kind.AGENT:
                self.port = Port(PORT_NAME, self._agent)
                self._plug(device, VirtioPorts([self.port]))
            case Kind.BUTTON:
                self.button = VirtioPowerButton()
                self._plug(device, self.button)
            case Kind.VSOCK:
                self._vsock(device)
            case Kind.PORTS:
                self._plug(device, VirtioPorts([each.port for each in self._port_sockets]))

    @contextmanager
    def still(self, patience: float) -> Iterator[None]:
        """Keep all devices from doing anything, while the vCPUs stand still.

        Raises:
            UserError: a disk does not complete its requests in time.
        """
        deadline = time.monotonic() + patience
        while True:
            with ExitStack() as locks:
                for window in self._windows:
                    locks.enter_context(window.lock)
                if all(window.is_idle for window in self._windows):
                    yield
                    return
            if time.monotonic() > deadline:
                raise UserError("a disk is busy and does not complete its requests: try again")
            time.sleep(0.001)

    def save(self) -> State:
        """Return the states of all devices, which are still.

        Raises:
            UserError: one of them cannot be saved.
        """
        states: State = {}
        for name, each in self._mapped.items():
            if not isinstance(each, SavedDevice):
                raise UserError(f"{name} cannot be saved: create the guest without it")
            states[name] = each.save()
        return states

    def load(self, state: State) -> None:
        """Set the states of all devices; StateError if these are others."""
        for name, each in self._mapped.items():
            if isinstance(each, SavedDevice):
                each.load(part(state, name))

    def _map(self, device: PlannedDevice, made: MmioDevice) -> None:
        """Add a device to the bus, at its place."""
        self._mapped[device.name] = made
        self._bus.add(device.place.base, device.place.size, made, device.name)

    def _serial_port(self, device: PlannedDevice) -> Uart:
        """Make a serial port: the first is the console, the others discard their output."""
        sink = _drop if device.index else self._sink
        uart = Uart(self._irq(device), sink, self._outside.set_timer(self._console_loop))
        if not device.index:
            self.uart = uart
        return uart

    def _add_flash(self, device: PlannedDevice) -> None:
        from pyvmm.vm.machine.firmware import add_flash  # noqa: PLC0415  few guests have it

        add_flash(self._options, device, self._guest, self._bus, self._resources, self._notify_once)

    def _disk(self, index: int) -> VirtioBlk:
        disks = self._options.disks
        path, serial = disks[index].path, disk_serials(disks)[index]
        workers = self._outside.workers(f"pyvmm-disk{index}")
        self._resources.callback(workers.close, 0)
        disk = open_disk(disks[index])
        self._resources.callback(close_disk, disk, workers)
        return VirtioBlk(
            disk,
            workers,
            serial.encode(),
            pool_size=self._guest.dma.shared_size if self._options.realm else None,
            on_failure=partial(self._notify_failure, path),
            is_write_through=disks[index].is_write_through,
            is_over=lambda: self._guest.outcome is not None,
        )

    def _card(self, device: PlannedDevice) -> None:
        from pyvmm.vm.machine.network import open_card  # noqa: PLC0415  only with a network

        card = open_card(
            self._options, device.index, self._loop, self._resources, self._notify, self._outside
        )
        self._plug(device, card)
        card.start()

    def _vsock(self, device: PlannedDevice) -> None:
        from pyvmm.devices.virtio.vsock import VirtioVsock  # noqa: PLC0415  few guests have one
        from pyvmm.devices.vsock_host import VsockHost  # noqa: PLC0415
        from pyvmm.vm.machine.vsock import VsockEndpoint  # noqa: PLC0415

        assert self._options.vsock is not None  # noqa: S101  the plan has one
        if self._home is None:
            raise UserError("--vsock requires the directory of instances: set XDG_RUNTIME_DIR")
        endpoint = self.vsock = VsockEndpoint(self._options.vsock, self._home)
        self._resources.callback(endpoint.close)
        host = VsockHost(endpoint.cid, self._loop, endpoint.listener, endpoint.connect)
        self._resources.callback(host.close)
        is_bounced = self._options.realm is not None
        virtio = VirtioVsock(endpoint.cid, host, is_bounced=is_bounced)
        self._plug(device, virtio)
        host.start(virtio)

    def _plug(self, device: PlannedDevice, virtio: VirtioDevice) -> None:
        """Put a virtio device behind its window on the bus, or into its PCI slot."""
        self.devices[device.name] = virtio
        is_realm, irq, slot = self._options.realm is not None, self._irq(device), device.slot
        if slot is None:
            window = VirtioMmio(
                virtio, self.dma, irq, access_platform=is_realm, is_halting=self._is_halting
            )
            self._windows.append(window)
            self._map(device, window)
        else:
            its = self._its
            send = None if its is None else partial(self._send, its, requester(slot))
            function = VirtioPci(
                virtio, self.dma, irq, send, access_platform=is_realm, is_halting=self._is_halting
            )
            self._windows.append(function)
            self._bridge.plug(slot, function, device.name)

    def _is_halting(self) -> bool:
        return self._guest.is_halting

    def _send(self, its: Its, device: int, address: int, data: int) -> None:
        """Deliver a message of a PCI function; one to another address than the ITS is lost."""
        if address == self._doorbell:
            its.signal(device, data)

    def _release(self, addr: int, size: int) -> None:
        try:
            self._guest.release(addr, size)
        except GranuleProtectionFault as fault:
            raise DmaFault(addr, size) from fault

    def _notify_failure(self, disk: Path, error: OSError) -> None:
        self._notify_once(f"disk {disk}: {error.strerror}; the guest gets I/O errors")

    def _notify_once(self, line: str) -> None:
        """Report a failure of the host's storage, each one once: the guest retries."""
        if line not in self._notified:
            self._notified.add(line)
            self._notify(line)


def _drop(_data: bytes) -> None:
    """Discard the output of a serial port."""
