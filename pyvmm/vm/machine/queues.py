"""Pictures of the virtqueues of a guest's devices."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pyvmm.arch.pictures import QueuePicture
from pyvmm.devices.dma import DmaFault
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, QueueFault, VirtQueue

_MAX_CHAINS: Final = 16
_SHOWN_BYTES: Final = 16


def queue_pictures(devices: Mapping[str, VirtioDevice]) -> Iterator[QueuePicture]:
    """Yield a picture of each queue; the guest stands still meanwhile."""
    for name, device in devices.items():
        for queue in device.queues:
            yield _picture(name, queue)


def _picture(device: str, queue: VirtQueue) -> QueuePicture:
    try:
        waiting, chains = queue.peek(_MAX_CHAINS)
        shown = [_describe(chain) for chain in chains]
    except (QueueFault, DmaFault) as fault:
        waiting, shown = 0, [f"not readable: {fault}"]
    return QueuePicture(
        device=device,
        index=queue.index,
        size=queue.size,
        is_ready=queue.is_ready,
        descriptors=hex(queue.desc_addr),
        available=hex(queue.driver_addr),
        used=hex(queue.device_addr),
        waiting=waiting,
        chains=shown,
    )


def _describe(chain: Chain) -> str:
    parts = [f"head {chain.head}:"]
    parts += _sizes("reads", chain.readable)
    if chain.readable:
        parts.append(f"({bytes(chain.readable[0][:_SHOWN_BYTES]).hex(' ')}…)")
    parts += _sizes("writes", chain.writable)
    return " ".join(parts)


def _sizes(verb: str, buffers: Sequence[memoryview]) -> list[str]:
    return [verb, "+".join(str(len(each)) for each in buffers)] if buffers else []
