"""A power button: an input device with one key, KEY_POWER, which the host presses.

Spec: virtio 1.2, "Input Device"; key and event codes are Linux's (input-event-codes.h).
"""

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final

from pyvmm.arch.saved import State
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

_EVENTS: Final = 0
_event = Struct("<HHI").pack  # type, code, value
_EV_SYN, _EV_KEY, _KEY_POWER = 0, 1, 116

_NAME: Final = b"pyvmm power button"
_BUS_VIRTUAL: Final = 6
_IDENTITY: Final = Struct("<HHHH").pack(_BUS_VIRTUAL, 0, 0, 1)  # bus, vendor, product, version
_KEYS: Final = (1 << _KEY_POWER).to_bytes(_KEY_POWER // 8 + 1, "little")
_SELECT, _SUBSELECT = 0, 1
_DATA_SIZE: Final = 128

#: Down and up again, each as one report.
PRESS: Final = (
    _event(_EV_KEY, _KEY_POWER, 1),
    _event(_EV_SYN, 0, 0),
    _event(_EV_KEY, _KEY_POWER, 0),
    _event(_EV_SYN, 0, 0),
)


class Select(IntEnum):
    """What the driver asks of the configuration space."""

    UNSET = 0x00
    NAME = 0x01
    IDENTITY = 0x03
    EVENT_BITS = 0x11


_ANSWERS: Final[Mapping[tuple[int, int], bytes]] = {
    (Select.NAME, 0): _NAME,
    (Select.IDENTITY, 0): _IDENTITY,
    (Select.EVENT_BITS, _EV_KEY): _KEYS,
}


class VirtioPowerButton(VirtioDevice):
    """Two queues: events for the driver, and its settings of lights, of which there are none.

    Concurrency: ``press`` may be called from any thread.
    """

    device_id = 18
    queue_sizes: tuple[int, ...] = (8, 8)  # a driver maps as many buffers; see `bounce`
    counter_names: ClassVar[tuple[str, ...]] = ("presses",)
    saved_names: ClassVar[tuple[str, ...] | None] = ("_selected",)

    def __init__(self) -> None:
        self._selected = (0, 0)
        self._waiting: list[bytes] = []

    @property
    def has_driver(self) -> bool:
        """Whether the guest has a driver for the button, which gets the next press."""
        return bool(self.queues) and self.queues[_EVENTS].is_ready

    def press(self) -> None:
        """Press and release the button; a press that waits for the driver counts once."""
        with self.transport:
            if self.has_driver and not self._waiting:
                self.counters["presses"] += 1
                self._waiting = list(PRESS)
                self._deliver(self.queues[_EVENTS])

    def config(self) -> bytes:
        """Return the selector and the answer to it."""
        answer = _ANSWERS.get(self._selected, b"")
        header = bytes((*self._selected, len(answer))).ljust(8, b"\0")
        return header + answer.ljust(_DATA_SIZE, b"\0")

    def write_config(self, offset: int, data: bytes) -> None:
        """Select what the configuration space shows."""
        select, subselect = self._selected
        for at, byte in enumerate(data, offset):
            if at == _SELECT:
                select = byte
            elif at == _SUBSELECT:
                subselect = byte
        self._selected = select, subselect

    def notify(self, queue: VirtQueue) -> None:
        """Deliver a press to new buffers, or return buffers with settings."""
        if queue.index == _EVENTS:
            self._deliver(queue)
            return
        for chain in queue.available():
            queue.push_used(chain, 0)

    def load(self, state: State) -> None:
        """Set what the driver has selected; a press that waited is lost."""
        super().load(state)
        select, subselect = self._selected
        self._selected = select & 0xFF, subselect & 0xFF

    def reset(self) -> None:
        """Forget the driver, and a press that it did not get."""
        super().reset()
        self._selected = (0, 0)
        self._waiting.clear()

    def _deliver(self, queue: VirtQueue) -> None:
        while self._waiting and (chain := queue.pop()) is not None:
            queue.push_used(chain, chain.write(self._waiting.pop(0)))
