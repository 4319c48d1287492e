"""Console device with one named port: a byte stream to a program in the guest, not a terminal.

The port opens and closes when the guest's program opens and closes its file, which has the name in
/sys/class/virtio-ports/*/name.  Spec: virtio 1.2, "Console Device", MULTIPORT.
Not implemented: ports that are consoles, several ports, removal of a port.
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
    """Offered feature bits."""

    MULTIPORT = 1 << 1


class Event(IntEnum):
    """Supported control messages."""

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
    """The host side; called on the thread of a vCPU, which it must not block."""

    def opened(self) -> None:
        """Start: a program in the guest has opened the port."""
        ...

    def received(self, data: bytes) -> None:
        """Process data that the program wrote."""
        ...

    def closed(self) -> None:
        """End: the program has closed the port; data that it has not read is lost."""
        ...


class VirtioPort(VirtioDevice):
    """A console device with one port, which is not a console.

    Args:
        name: by which the guest finds the port.
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
        self._messages: dict[Event, bytes] = {}  # one per kind, to bound a driver's requests

    @property
    def backlog(self) -> int:
        """The number of sent bytes for which the guest has no buffer yet."""
        return len(self._waiting)

    def send(self, data: bytes) -> bool:
        """Send bytes; they wait until the guest offers buffers.  Return False if it is closed."""
        with self.transport:
            if not self._is_open:
                return False
            self._waiting += data
            self._deliver()
            return True
        return False  # the queue is broken

    def config(self) -> bytes:
        """Return the number of ports."""
        return _config(0, 0, 1, 0)

    def notify(self, queue: VirtQueue) -> None:
        """Process output, control messages, or new buffers for either."""
        if not self.acked_features & PortFeature.MULTIPORT:
            return  # this driver expects a terminal, which the port is not
        match queue.index:
            case _Queue.RECEIVE:
                self._deliver()
            case _Queue.TRANSMIT:
                self._take(queue)
            case _Queue.CONTROL_RECEIVE:
                self._deliver_messages()
            case _:
                for chain in queue.available():
                    self._handle_control(chain.read(_control.size))
                    queue.push_used(chain, 0)

    def reset(self) -> None:
        """Close the port: the guest's program is gone."""
        super().reset()
        self._messages.clear()
        self._set_open(is_open=False)

    def _take(self, queue: VirtQueue) -> None:
        for chain in queue.available():
            data = chain.read(MAX_OUTPUT)
            queue.push_used(chain, 0)
            if self._is_open:
                self._user.received(data)

    def _handle_control(self, message: bytes) -> None:
        """Handle a control message; ignore an invalid one."""
        if len(message) < _control.size:
            return
        port, event, value = _control.unpack(message)
        match event:
            case Event.DEVICE_READY if value:
                self._send_control(Event.PORT_ADD)
            case Event.PORT_READY if value and port == _PORT:
                self._send_control(Event.PORT_NAME, self._name)
                self._send_control(Event.PORT_OPEN)
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

    def _send_control(self, event: Event, text: bytes = b"") -> None:
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
