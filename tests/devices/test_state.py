"""The state of a virtio device without a window: the calls of its transport's interrupts."""

from dataclasses import dataclass, field

from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.state import DeviceState, Feature, Status
from tests.devices.driver import Ram, Ring

RX, TX = 0, 1


@dataclass
class InterruptLog:
    """The interrupts of a transport with one per queue."""

    causes: list[int | str] = field(default_factory=list)

    def queue_used(self, index: int) -> None:
        """Record the queue."""
        self.causes.append(index)

    def config_changed(self) -> None:
        """Record a change of the configuration."""
        self.causes.append("config")


def started(state: DeviceState, ram: Ram) -> list[Ring]:
    """Initialise a device as a driver does; return its rings."""
    rings = []
    with state:
        state.set_status(Status.ACKNOWLEDGE | Status.DRIVER)
        state.set_driver_features(1, Feature.VERSION_1 >> 32)
        state.set_status(Status.FEATURES_OK)
        for queue in state.queues:
            ring = Ring(ram, min(16, queue.max_size))
            queue.size = ring.size
            queue.desc_addr, queue.driver_addr = ring.desc, ring.avail
            queue.device_addr = ring.used
            state.set_ready(queue, is_ready=True)
            rings.append(ring)
        state.set_status(Status.DRIVER_OK)
    return rings


def test_each_queue_has_its_interrupt() -> None:
    """A transport may have a vector per queue; used buffers of one queue do not affect others."""
    log, ram, written = InterruptLog(), Ram(), bytearray()
    console = VirtioConsole(written.extend, (80, 25))
    state = DeviceState(console, ram, log)
    rings = started(state, ram)
    assert log.causes == []
    rings[TX].add([b"out"], [])
    with state:
        state.notify(TX)
        assert log.causes == []  # an activity is reported as a whole
    assert bytes(written) == b"out"
    assert log.causes == [TX]
    rings[RX].add([], [8])
    console.receive(b"in")
    assert log.causes == [TX, RX]


def test_configuration_and_broken_queues_have_an_interrupt_of_their_own() -> None:
    """It occurs only after DRIVER_OK."""
    log, ram = InterruptLog(), Ram()
    console = VirtioConsole(lambda _: None, (80, 25))
    state = DeviceState(console, ram, log)
    console.resize(100, 30)
    assert (log.causes, state.config_generation) == ([], 1)
    rings = started(state, ram)
    console.resize(132, 50)
    assert (log.causes, state.config_generation) == (["config"], 2)
    rings[TX].offer(500)  # no such descriptor
    with state:
        state.notify(TX)
    assert state.status & Status.NEEDS_RESET
    assert log.causes == ["config", "config"]
