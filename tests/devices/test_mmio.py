"""The virtio-mmio transport."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch.errors import RepeatAccess
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.mmio import Register
from pyvmm.devices.virtio.rng import MAX_BURST, VirtioRng
from pyvmm.devices.virtio.state import Feature, Status
from tests.devices.driver import Driver
from tests.devices.hosts import no_timer


def test_transport_identifies_itself() -> None:
    """Linux probes magic, version 2 and device id; there is no shared memory region."""
    driver = Driver(VirtioRng(no_timer))
    registers = (Register.MAGIC_VALUE, Register.VERSION, Register.DEVICE_ID)
    assert [driver.read(r) for r in registers] == [0x74726976, 2, 4]
    assert driver.read(Register.SHM_LEN_LOW) == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("access_platform", "features", "is_accepted"),
    [
        (False, Feature.VERSION_1, True),
        (False, 0, False),
        (False, Feature.VERSION_1 | 1 << 40, False),
        (False, Feature.VERSION_1 | Feature.ACCESS_PLATFORM, False),
        (True, Feature.VERSION_1 | Feature.ACCESS_PLATFORM, True),
        (True, Feature.VERSION_1, False),
    ],
)
def test_transport_accepts_features_when_they_are_on_offer_and_enough(
    access_platform: bool, features: int, is_accepted: bool
) -> None:
    """FEATURES_OK is set only after an agreement; without it DRIVER_OK is not set."""
    driver = Driver(VirtioRng(no_timer), access_platform=access_platform)
    driver.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
    assert driver.accept(features) == is_accepted
    driver.write(Register.STATUS, driver.read(Register.STATUS) | Status.DRIVER_OK)
    assert bool(driver.read(Register.STATUS) & Status.DRIVER_OK) == is_accepted


def test_transport_keeps_features_and_queues_as_agreed() -> None:
    """Later writes to features or to a queue in use have no effect; no bit is cleared."""
    driver = Driver(VirtioRng(no_timer)).start()
    driver.write(Register.DRIVER_FEATURES_SEL, 1)
    driver.write(Register.DRIVER_FEATURES, 0)
    driver.write(Register.QUEUE_DESC, 0x10)
    driver.write(Register.QUEUE_SIZE, 3)
    driver.write(Register.STATUS, Status.ACKNOWLEDGE)
    assert driver.read(Register.STATUS) == 0xF
    request = driver.rings[0].add([], [32])
    driver.kick()
    assert any(request.answer())


@pytest.mark.parametrize(
    ("register", "value"),
    [(Register.QUEUE_SIZE, 0), (Register.QUEUE_SIZE, 3), (Register.QUEUE_SIZE, 1 << 20),
     (Register.QUEUE_DESC, 8), (Register.QUEUE_DRIVER, 1), (Register.QUEUE_DEVICE, 2)],
)  # fmt: skip
def test_transport_breaks_when_a_queue_cannot_be_as_configured(register: int, value: int) -> None:
    """A size that is not a power of two or too large, or a misaligned ring, breaks it."""
    driver = Driver(VirtioRng(no_timer))
    driver.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
    assert driver.accept(driver.offered())
    driver.write(Register.QUEUE_SIZE, 16)
    driver.write(register, value)
    driver.write(Register.QUEUE_READY, 1)
    assert (driver.read(Register.QUEUE_READY), driver.is_broken) == (0, True)


def test_transport_serves_what_was_offered_before_driver_ok() -> None:
    """Buffers from before DRIVER_OK are served after it."""
    driver = Driver(VirtioRng(no_timer))
    driver.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
    assert driver.accept(driver.offered())
    ring = driver.set_up_queue(0)
    ring.add([], [8])
    driver.kick()
    assert ring.used_entries() == []
    driver.write(Register.STATUS, 0xF)
    assert len(ring.used_entries()) == 1


def test_transport_forgets_everything_at_reset() -> None:
    """Status 0: queues, features and the interrupt are gone, and a kick does nothing."""
    driver = Driver(VirtioRng(no_timer)).start()
    ring = driver.rings[0]
    ring.add([], [8])
    driver.kick()
    assert driver.irq.is_high()
    driver.write(Register.STATUS, 0)
    assert (driver.irq.is_high(), driver.read(Register.INTERRUPT_STATUS)) == (False, 0)
    assert (driver.read(Register.STATUS), driver.read(Register.QUEUE_READY)) == (0, 0)
    ring.add([], [8])
    driver.kick()
    assert len(ring.used_entries()) == 1


def test_transport_gives_a_new_edge_for_a_cause_that_is_left() -> None:
    """An edge-triggered interrupt must not lose the second cause."""
    console = VirtioConsole(lambda _: None, (80, 25))
    driver = Driver(console).start()
    generation = driver.read(Register.CONFIG_GENERATION)
    driver.rings[1].add([b"x"], [])
    driver.kick(1)
    console.resize(100, 40)
    assert (driver.irq.rises, driver.read(Register.INTERRUPT_STATUS)) == (1, 3)
    driver.write(Register.INTERRUPT_ACK, 1)
    assert (driver.irq.rises, driver.irq.is_high()) == (2, True)
    assert driver.read(Register.CONFIG_GENERATION) != generation
    assert (driver.config(0, 2), driver.config(2, 2), driver.config(4, 4)) == (100, 40, 1)
    assert driver.config(0, 4) == 40 << 16 | 100
    assert driver.config(0xF8, 8) == 0


class EndlessDriver:
    """A driver of an entropy device that offers another buffer for each one that is filled."""

    def __init__(self) -> None:
        self.num_filled = 0
        self.is_wanted = False  # the vCPU, elsewhere
        device = VirtioRng(no_timer, self.fill)
        self.driver = Driver(device, is_halting=lambda: self.is_wanted).start()
        self.ring = self.driver.rings[0]

    def fill(self, size: int) -> bytes:
        """Fill a buffer; request the vCPU at every tenth."""
        self.num_filled += 1
        self.ring.add([], [4])  # as another vCPU does meanwhile
        self.is_wanted = self.num_filled % 10 == 0
        return bytes(size)


@pytest.mark.parametrize("register", [Register.QUEUE_NOTIFY, Register.STATUS])
def test_transport_gives_way_to_who_wants_the_vcpu(register: Register) -> None:
    """It stops with any number of buffers; the rest is served when the write is repeated."""
    endless = EndlessDriver()
    value = endless.driver.read(register)
    endless.ring.add([], [4])
    for _ in range(10):
        before = endless.num_filled
        with pytest.raises(RepeatAccess):
            endless.driver.write(register, value)
        assert endless.num_filled == before + 10
        assert len(endless.ring.used_entries()) == 10


def test_transport_makes_progress_while_the_vcpu_is_wanted() -> None:
    """Each write serves one buffer."""
    driver = Driver(VirtioRng(no_timer), is_halting=lambda: True).start()
    for _ in range(3):
        driver.rings[0].add([], [4])
    for _ in range(3):
        with pytest.raises(RepeatAccess):
            driver.kick()
        assert len(driver.rings[0].used_entries()) == 1
    driver.kick()


def test_rng_bounds_what_one_request_costs() -> None:
    """Overlapping buffers may have any size; the host generates at most MAX_BURST bytes."""
    asked: list[int] = []

    def source(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    driver = Driver(VirtioRng(no_timer, source)).start()
    addr = driver.ram.alloc(0x8000)
    ring = driver.rings[0]
    for index in range(16):
        ring.put_desc(index, addr, 0x8000, 2 | (index < 15), index + 1)
    ring.offer(0)
    driver.kick()
    assert asked == [MAX_BURST]
    assert ring.used_entries() == [(0, MAX_BURST)]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(list(Register)), st.integers(0, 0x1FF)),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(st.integers(0, 15), st.integers(0, (1 << 64) - 1)),
        ),
        max_size=25,
    )
)
def test_transport_is_total_over_any_accesses(accesses: list[tuple[int, int, int]]) -> None:
    """Any sequence of reads and writes is answered in range."""
    driver = Driver(VirtioRng(no_timer)).start()
    for offset, size, value in accesses:
        driver.mmio.write(offset, size, value)
        assert 0 <= driver.mmio.read(offset, size) < 1 << 8 * size
