"""Console device with named ports: byte streams to programs in the guest, not terminals.

A port opens and closes when a program in the guest opens and closes its file, which has the port's
name in /sys/class/virtio-ports/*/name.  Spec: virtio 1.2, "Console Device", MULTIPORT.
Not implemented: ports that are consoles, removal of a port.
"""

from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import ClassVar, Final, Protocol

from pyvmm.arch import saved
from pyvmm.arch.saved import State, Value
from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import VirtQueue

_config = Struct("<HHII").pack  # cols, rows, max_nr_ports, emerg_wr
_control = Struct("<IHH")  # id, event, value

#: Longest output taken from one chain: its buffers may overlap and claim more than guest memory.
MAX_OUTPUT: Final = 1 << 20
#: Receive buffers are pages that a realm's driver keeps in its bounce pool, see `bounce`.
_FIRST_SIZES: Final = (16, 16, 4, 16)  # of the first port, and of the control queues
_OTHER_SIZES: Final = (4, 16)


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
    CONTROL_RECEIVE = 2
    CONTROL_TRANSMIT = 3


class PortUser(Protocol):
    """The host side; called on the thread of a vCPU, which it must not block.

    The transport's lock is held: the methods must not take a lock that is held while the port is
    used.
    """

    @property
    def is_full(self) -> bool:
        """Whether it takes no more data now; it calls the port's ``resume`` later."""

    def opened(self) -> None:
        """Start: a program in the guest has opened the port."""
        ...

    def received(self, data: bytes) -> None:
        """Process data that the program wrote."""
        ...

    def drained(self) -> None:
        """Continue to send: the guest has taken all the data so far."""
        ...

    def closed(self) -> None:
        """End: the program has closed the port; data that it has not read is lost."""
        ...


class Port:
    """One port, which is not a console.

    Args:
        name: by which the guest finds the port.
        user: the host side.

    Concurrency: ``send`` and ``resume`` may be called from any thread.
    """

    def __init__(self, name: str, user: PortUser) -> None:
        self.name = name.encode()
        self.user = user
        self.is_open = False
        self.waiting = bytearray()
        #: What is to come: after how many chains taken in all, and whether it opens or closes.
        self.changes = deque[tuple[int, bool]]()
        self.num_taken = 0  # chains that the guest has written
        self.device: VirtioPorts | None = None
        self.number = 0  # in the device

    @property
    def backlog(self) -> int:
        """The number of sent bytes for which the guest has no buffer yet."""
        return len(self.waiting)

    def send(self, data: bytes) -> bool:
        """Send bytes; they wait until the guest offers buffers.  Return False if it is closed."""
        device = self.device
        if device is None:
            return False
        with device.transport:
            if not self.is_open:
                return False
            self.waiting += data
            device.deliver(self)
            return True
        return False  # the queue is broken

    def resume(self) -> None:
        """Take the data that the guest has written meanwhile: the user is not full any more."""
        if (device := self.device) is not None:
            with device.transport:
                device.take(self)


class VirtioPorts(VirtioDevice):
    """A console device with some ports."""

    device_id = 3
    features: int = PortFeature.MULTIPORT
    saved_names: ClassVar[tuple[str, ...] | None] = ()

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports = ports
        for number, port in enumerate(ports):
            port.device, port.number = self, number
        self.queue_sizes = _FIRST_SIZES + _OTHER_SIZES * (len(ports) - 1)
        self._messages: dict[tuple[int, Event], bytes] = {}  # one per kind, to bound the requests

    def config(self) -> bytes:
        """Return the number of ports."""
        return _config(0, 0, len(self._ports), 0)

    def notify(self, queue: VirtQueue) -> None:
        """Process output, control messages, or new buffers for either."""
        if not self.acked_features & PortFeature.MULTIPORT:
            return  # this driver expects a terminal, which no port is
        match queue.index:
            case _Queue.CONTROL_RECEIVE:
                self._deliver_messages()
            case _Queue.CONTROL_TRANSMIT:
                for chain in queue.available():
                    self._handle_control(chain.read(_control.size))
                    queue.push_used(chain, 0)
            case index:
                pair, is_output = divmod(index, 2)
                port = self._ports[max(pair - 1, 0)]  # the control queues are the second pair
                if is_output:
                    self.take(port)
                else:
                    self.deliver(port)

    def save(self) -> State:
        """Return which ports are open, what waits in them, and what is to come."""
        return {"ports": [_saved(port) for port in self._ports]}

    def load(self, state: State) -> None:
        """Set which ports are open; messages that waited for the driver are lost."""
        for port, each in zip(
            self._ports, saved.items(state, "ports", len(self._ports)), strict=True
        ):
            _load(port, saved.items({"port": each}, "port", 3))

    def reset(self) -> None:
        """Close the ports: the guest's programs are gone."""
        super().reset()
        self._messages.clear()
        for port in self._ports:
            port.changes.clear()
            _set_open(port, is_open=False)

    def deliver(self, port: Port) -> None:
        """Give the guest data that waits, as far as it has buffers; inside an activity."""
        if not port.waiting:
            return
        queue = self.queues[_queue_of(port)]
        while port.waiting and (chain := queue.pop()) is not None:
            written = chain.write(port.waiting)
            del port.waiting[:written]
            queue.push_used(chain, written)
        if not port.waiting:
            port.user.drained()

    def take(self, port: Port) -> None:
        """Give the user what the guest has written, until the user is full; inside an activity."""
        queue = self.queues[_queue_of(port) + 1]
        for chain in queue.available():
            if port.is_open and port.user.is_full:
                queue.unpop()
                return
            data = chain.read(MAX_OUTPUT)
            queue.push_used(chain, 0)
            if port.is_open:
                port.user.received(data)
            port.num_taken += 1
            while port.changes and port.changes[0][0] <= port.num_taken:
                _set_open(port, is_open=port.changes.popleft()[1])

    def _change(self, port: Port, *, is_open: bool) -> None:
        """Open or close a port: for what the guest writes from now on, not for what waits."""
        num_waiting, _ = self.queues[_queue_of(port) + 1].peek(0)
        at, changes = port.num_taken + num_waiting, port.changes
        if not num_waiting:
            _set_open(port, is_open=is_open)
        elif changes and changes[-1] == (at, True) and not is_open:
            changes.pop()  # it would be open for nothing
        elif is_open != (changes[-1][1] if changes else port.is_open):
            changes.append((at, is_open))

    def _handle_control(self, message: bytes) -> None:
        """Handle a control message; ignore an invalid one."""
        if len(message) < _control.size:
            return
        number, event, value = _control.unpack(message)
        if event == Event.DEVICE_READY and value:
            for port in self._ports:
                self._send_control(port, Event.PORT_ADD)
        if number >= len(self._ports):
            return
        port = self._ports[number]
        match event:
            case Event.PORT_READY if value:
                self._send_control(port, Event.PORT_NAME, port.name)
                self._send_control(port, Event.PORT_OPEN)
            case Event.PORT_OPEN:
                self._change(port, is_open=bool(value))
            case _:
                pass

    def _send_control(self, port: Port, event: Event, text: bytes = b"") -> None:
        self._messages[port.number, event] = _control.pack(port.number, event, 1) + text
        self._deliver_messages()

    def _deliver_messages(self) -> None:
        queue = self.queues[_Queue.CONTROL_RECEIVE]
        while self._messages and (chain := queue.pop()) is not None:
            first = next(iter(self._messages))
            queue.push_used(chain, chain.write(self._messages.pop(first)))


def _queue_of(port: Port) -> int:
    """Return the receive queue of a port; its transmit queue is the next one."""
    return 2 * port.number + 2 if port.number else 0


def _saved(port: Port) -> list[Value]:
    changes: list[Value] = [[at - port.num_taken, is_open] for at, is_open in port.changes]
    return [port.is_open, bytes(port.waiting), changes]


def _load(port: Port, state: list[Value]) -> None:
    is_open, waiting, _ = state
    if not isinstance(waiting, bytes):
        raise saved.StateError("a port has no bytes")
    port.changes.clear()
    port.num_taken = 0
    for each in saved.items({"changes": state[2]}, "changes"):
        after, opens = saved.items({"change": each}, "change", 2)
        port.changes.append((saved.number({"after": after}, "after", 1 << 16), opens is True))
    _set_open(port, is_open=is_open is True)
    port.waiting[:] = waiting


def _set_open(port: Port, *, is_open: bool) -> None:
    if is_open == port.is_open:
        return
    port.is_open = is_open
    port.waiting.clear()
    if is_open:
        port.user.opened()
    else:
        port.user.closed()
