"""The need of a realm's devices for slots of a small bounce pool, like Linux's."""

from pyvmm.devices.virtio.blk import VirtioBlk
from pyvmm.devices.virtio.bounce import LARGE_POOL, SMALL_REQUEST
from pyvmm.devices.virtio.console import VirtioConsole
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.mmio import Register
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.devices.virtio.port import Port, VirtioPorts
from tests.devices.driver import Driver
from tests.devices.hosts import Inline, Listener, MemoryDisk, Wire

SLOT, PAGE = 2048, 4096
SMALLEST_POOL = 128  # slots, of a realm of up to 256 MiB
POOL_OF_512_MIB = 256
#: Linux maps this many pages of a network card's receive buffers at once.
PAGES_AT_ONCE = 64


def receive_slots(device: VirtioDevice, *queues: int) -> int:
    """Return how many slots a page in each entry of some queues takes."""
    driver = Driver(device, access_platform=True)
    entries = 0
    for queue in queues:
        driver.write(Register.QUEUE_SEL, queue)
        entries += driver.read(Register.QUEUE_SIZE_MAX)
    return entries * PAGE // SLOT


def test_one_device_of_each_kind_fits_the_pool_of_a_realm() -> None:
    """It fits with the largest request of a disk and all receive buffers."""
    disk = Driver(
        VirtioBlk(MemoryDisk(), Inline(), pool_size=lambda: SMALLEST_POOL * SLOT),
        access_platform=True,
    )
    request = disk.config(8, 4) * disk.config(12, 4) // SLOT + 3  # header, status, indirect table
    port = receive_slots(VirtioPorts([Port("agent", Listener())]), 0, 2)
    console = receive_slots(VirtioConsole(lambda _: None), 0)
    card = receive_slots(VirtioNet(Wire(), bytes(6), is_bounced=True), 0)
    entropy = 1
    assert (disk.config(8, 4), disk.config(12, 4)) == SMALL_REQUEST
    assert request + port + console + entropy <= SMALLEST_POOL
    assert card <= PAGES_AT_ONCE * PAGE // SLOT
    assert request + port + console + entropy + card < POOL_OF_512_MIB


def test_a_driver_without_a_bounce_pool_is_not_held_back() -> None:
    """A normal VM has requests of megabytes, and enough buffers for a burst."""
    disk = Driver(VirtioBlk(MemoryDisk(), Inline()))
    assert disk.config(8, 4) * disk.config(12, 4) > 1 << 20
    assert receive_slots(VirtioNet(Wire(), bytes(6)), 0) == 256 * PAGE // SLOT


def test_a_disk_uses_a_large_pool() -> None:
    """A request takes a half of it at most; the limits follow the pool, which grows at boot."""
    size = 0
    disk = Driver(VirtioBlk(MemoryDisk(), Inline(), pool_size=lambda: size), access_platform=True)
    assert (disk.config(8, 4), disk.config(12, 4)) == SMALL_REQUEST
    size = LARGE_POOL
    assert 1 << 20 <= disk.config(8, 4) * disk.config(12, 4) <= LARGE_POOL // 2
