"""Console device with one named port: a byte stream to a program in the guest, no terminal.

The port opens and closes as the guest's program opens and closes its file, which Linux names in
/sys/class/virtio-ports/*/name.  Spec: virtio 1.2, "Console Device", MULTIPORT.
Not here: ports that are consoles, more than one, taking a port away.
"""

from enum import IntEnum
from struct import Struct
from typing import Final, Protocol

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

_config = Struct("<HHII").pack  # cols, rows, max_nr_ports, emerg_wr
_control = Struct("<IHH")  # id, event, value
_PORT: Final = 0

#: Longest output taken from one chain: its buffers may overlap and claim more than guest memory.
MAX_OUTPUT: Final = 1 << 20


class PortFeature(IntEnum):
    """Feature bits on offer."""

    MULTIPORT = 1 << 1


class Event(IntEnum):
    """Control messages that are sent or understood."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_READY = 3
    PORT_OPEN = 6
    PORT_NAME = 7


class _Queue(IntEnum):
    RECEIVE = 0
    TRANSMIT = 1
    CONTROL_RECEIVE = 2
    CONTROL_TRANSMIT = 3


class PortUser(Protocol):
    """The host side; called from the thread of a vCPU, which it must not hold up."""

    def opened(self) -> None:
        """Begin: a program in the guest has the port open."""
        ...

    def received(self, data: bytes) -> None:
        """Take what it wrote."""
        ...

    def closed(self) -> None:
        """End: it is gone, and with it what it had not read."""
        ...


class VirtioPort(VirtioDevice):
    """The one port of a console device that is no console.

    Args:
        name: how the guest finds it.
        user: the host side.

    Concurrency: ``send`` may be called from any thread.
    """

    device_id = 3
    queue_sizes: tuple[int, ...] = (16, 16, 4, 16)
    features: int = PortFeature.MULTIPORT

    def __init__(self, name: str, user: PortUser) -> None:
        self._name = name.encode()
        self._user = user
        self._is_open = False
        self._waiting = bytearray()
        self._messages: dict[Event, bytes] = {}  # one of a kind: a driver may ask without end

    @property
    def backlog(self) -> int:
        """Number of sent bytes that the guest has no buffer for yet."""
        return len(self._waiting)

    def send(self, data: bytes) -> bool:
        """Send bytes, which wait until the guest offers buffers; False if the port is closed."""
        with self.transport:
            if not self._is_open:
                return False
            self._waiting += data
            self._deliver()
            return True
        return False  # the queue broke

    def config(self) -> bytes:
        """Return the number of ports."""
        return _config(0, 0, 1, 0)

    def notify(self, queue: VirtQueue) -> None:
        """Serve output, control messages, or new buffers for either."""
        if not self.acked_features & PortFeature.MULTIPORT:
            return  # to this driver the port is a terminal, which we are not
        match queue.index:
            case _Queue.RECEIVE:
                self._deliver()
            case _Queue.TRANSMIT:
                self._take(queue)
            case _Queue.CONTROL_RECEIVE:
                self._deliver_messages()
            case _:
                for chain in queue.available():
                    self._obey(chain.read(_control.size))
                    queue.push_used(chain, 0)

    def reset(self) -> None:
        """Close the port: its program is gone."""
        super().reset()
        self._messages.clear()
        self._set_open(is_open=False)

    def _take(self, queue: VirtQueue) -> None:
        for chain in queue.available():
            data = chain.read(MAX_OUTPUT)
            queue.push_used(chain, 0)
            if self._is_open:
                self._user.received(data)

    def _obey(self, message: bytes) -> None:
        """Do what a control message asks for; what is none is ignored."""
        if len(message) < _control.size:
            return
        port, event, value = _control.unpack(message)
        match event:
            case Event.DEVICE_READY if value:
                self._tell(Event.PORT_ADD)
            case Event.PORT_READY if value and port == _PORT:
                self._tell(Event.PORT_NAME, self._name)
                self._tell(Event.PORT_OPEN)
            case Event.PORT_OPEN if port == _PORT:
                self._set_open(is_open=bool(value))

    def _set_open(self, *, is_open: bool) -> None:
        if is_open == self._is_open:
            return
        self._is_open = is_open
        self._waiting.clear()
        if is_open:
            self._user.opened()
        else:
            self._user.closed()

    def _tell(self, event: Event, text: bytes = b"") -> None:
        self._messages[event] = _control.pack(_PORT, event, 1) + text
        self._deliver_messages()

    def _deliver_messages(self) -> None:
        queue = self.queues[_Queue.CONTROL_RECEIVE]
        while self._messages and (chain := queue.pop()) is not None:
            event = next(iter(self._messages))
            queue.push_used(chain, chain.write(self._messages.pop(event)))

    def _deliver(self) -> None:
        queue = self.queues[_Queue.RECEIVE]
        while self._waiting and (chain := queue.pop()) is not None:
            written = chain.write(self._waiting)
            del self._waiting[:written]
            queue.push_used(chain, written)
