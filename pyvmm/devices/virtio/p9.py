"""9P transport device: carries the messages of a guest's 9P client to an injected server.

Spec: virtio 1.3, "9P Device"; the messages are the server's matter.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, Protocol

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue
from pyvmm.devices.workers import Executor

QUEUE_SIZE: Final = 128
#: Requests served before others get their turn on the server's thread.
_BATCH: Final = 32


class P9Feature(IntEnum):
    """Offered feature bits."""

    MOUNT_TAG = 1 << 0


class Server(Protocol):
    """The host side; its methods are called one at a time, on its own thread."""

    @property
    def max_msize(self) -> int:
        """Limit of a message in bytes."""
        ...

    def handle(self, message: bytes) -> bytes:
        """Return the reply to a request, whatever it contains."""
        ...

    def reset(self) -> None:
        """Forget the client."""
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    """A request, with the session and the generation of the queue that it belongs to."""

    chain: Chain
    message: bytes
    session: int
    generation: int


class VirtioP9(VirtioDevice):
    """One queue of requests, served in order on the server's thread, never on a vCPU's.

    Args:
        tag: by which the guest mounts it.
        server: the host side.
        executor: does one thing at a time, on the server's thread.
    """

    device_id = 9
    queue_sizes: tuple[int, ...] = (QUEUE_SIZE,)
    counter_names: ClassVar[tuple[str, ...]] = ("requests", "received_bytes", "sent_bytes")
    features: int = P9Feature.MOUNT_TAG

    def __init__(self, tag: str, server: Server, executor: Executor) -> None:
        self._tag = tag.encode()
        self._server = server
        self._executor = executor
        self._is_serving = False  # or about to
        self._session = 0  # a reset starts another one
        self._served_session = 0

    def config(self) -> bytes:
        """Return the tag, after its size."""
        return len(self._tag).to_bytes(2, "little") + self._tag

    def notify(self, queue: VirtQueue) -> None:  # noqa: ARG002  there is one
        """Have the server's thread serve the requests."""
        if not self._is_serving:
            self._is_serving = True
            self._executor.submit(self._serve)

    def reset(self) -> None:
        """Forget the client: what is being served for it gets no reply."""
        super().reset()
        self._session += 1

    def _serve(self) -> None:
        """Serve some requests, one after the other."""
        for _ in range(_BATCH):
            if not self._serve_one():
                return
        self._executor.submit(self._serve)

    def _serve_one(self) -> bool:
        """Serve a request, outside the lock; return False if there is none."""
        (queue,) = self.queues
        transfer = queue.begin_transfer()
        try:
            request = self._take(queue)
            if request is None:
                return False
            if request.session != self._served_session:
                self._served_session = request.session
                self._server.reset()
            reply = self._server.handle(request.message)
            with self.transport:
                if request.generation == queue.generation:
                    chain = request.chain
                    queue.push_used(chain, chain.write(reply[: chain.writable_size]))
                    self._count(request.message, reply)
        finally:
            queue.end_transfer(transfer)
        return True

    def _take(self, queue: VirtQueue) -> _Request | None:
        """Return the next request; without one, the next notification starts serving again."""
        with self.transport:
            self._is_serving = False
            chain = queue.pop()
            if chain is not None:
                self._is_serving = True
                message = chain.read(self._server.max_msize)
                return _Request(chain, message, self._session, queue.generation)
        return None

    def _count(self, message: bytes, reply: bytes) -> None:
        self.counters["requests"] += 1
        self.counters["received_bytes"] += len(message)
        self.counters["sent_bytes"] += len(reply)
