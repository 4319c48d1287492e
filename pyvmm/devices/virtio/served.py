"""The base of devices whose requests an injected server answers, on a thread of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from pyvmm.devices.virtio.device import VirtioDevice
from pyvmm.devices.virtio.queue import Chain, VirtQueue
from pyvmm.devices.workers import Executor

#: Requests served before others get their turn on the server's thread.
_BATCH: Final = 32


class Server(Protocol):
    """The host side; its methods are called one at a time, on its own thread."""

    @property
    def max_message(self) -> int:
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
    """A request, with the session and the generation of its queue that it belongs to."""

    queue: VirtQueue
    chain: Chain
    message: bytes
    session: int
    generation: int


class ServedDevice(VirtioDevice):
    """Queues of requests, served one after the other and never on a vCPU's thread.

    Args:
        tag: by which the guest mounts it.
        server: the host side.
        executor: does one thing at a time, on the server's thread.
    """

    counter_names: ClassVar[tuple[str, ...]] = ("requests", "received_bytes", "sent_bytes")

    def __init__(self, tag: str, server: Server, executor: Executor) -> None:
        self._tag = tag.encode()
        self._server = server
        self._executor = executor
        self._is_serving = False  # or about to
        self._session = 0  # a reset starts another one
        self._served_session = 0

    def notify(self, queue: VirtQueue) -> None:  # noqa: ARG002  all queues are served
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
        with self._transfer():
            request = self._take()
            if request is None:
                return False
            if request.session != self._served_session:
                self._served_session = request.session
                self._server.reset()
            self._answer(request, self._server.handle(request.message))
        return True

    @contextmanager
    def _transfer(self) -> Iterator[None]:
        """Keep the buffers of a request valid until its end."""
        queue = self.queues[0]  # the others have the same memory
        transfer = queue.begin_transfer()
        try:
            yield
        finally:
            queue.end_transfer(transfer)

    def _take(self) -> _Request | None:
        """Return the next request; without one, the next notification starts serving again."""
        with self.transport:
            self._is_serving = False
            for queue in self.queues:
                chain = queue.pop()
                if chain is not None:
                    self._is_serving = True
                    message = chain.read(self._server.max_message)
                    return _Request(queue, chain, message, self._session, queue.generation)
        return None

    def _answer(self, request: _Request, reply: bytes) -> None:
        with self.transport:
            if request.generation != request.queue.generation:
                return
            chain = request.chain
            request.queue.push_used(chain, chain.write(reply[: chain.writable_size]))
            self.counters["requests"] += 1
            self.counters["received_bytes"] += len(request.message)
            self.counters["sent_bytes"] += len(reply)
