"""The API as HTTP keeps what its OpenAPI description promises: schemathesis makes the requests."""

import socket
import threading
from contextlib import suppress
from typing import Protocol

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from pyvmm.vm.control.api import METHODS
from pyvmm.vm.control.openapi import document
from pyvmm.vm.control.routes import FEEDS
from tests.vm.served import Served

NUM_CASES = 3


class Gateway:
    """A TCP port in front of an instance's socket, for clients that know nothing else."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets = [self._listener]
        self.port = self._listener.getsockname()[1]
        self._run(self._accept)

    def _run(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = self._served.raw()
                far.settimeout(None)
                self._sockets += [near, far]
                self._run(self._copy, near, far)
                self._run(self._copy, far, near)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all connections; the instance has ended them on its side."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()


#: They wait for the guest, or end the instance.
_OTHERS = {"stop", "destroy", "wait_agent", "attest", "console_write", *FEEDS}


@pytest.mark.parametrize("mode", [*GenerationMode])
def test_whatever_the_schema_allows_or_forbids(served: Served, mode: GenerationMode) -> None:
    """Generated requests, right and wrong ones: answers are those that the schema promises."""
    gateway = Gateway(served)
    schema = schemathesis.openapi.from_dict(document())
    schema.config.update(base_url=f"http://127.0.0.1:{gateway.port}")
    try:
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            name = operation.path.removeprefix("/")
            takes_none = not METHODS[name].signature.parameters  # nothing can be wrong
            if name not in _OTHERS and not (takes_none and mode is GenerationMode.NEGATIVE):
                _check(operation.as_strategy(generation_mode=mode))
    finally:
        served.end()
        gateway.close()


class _Case(Protocol):
    """A generated request."""

    def call_and_validate(self, *, timeout: float) -> object:
        """Make it; raise an exception group of the promises that the answer breaks."""


def _check(cases: SearchStrategy[_Case]) -> None:
    @settings(
        max_examples=NUM_CASES, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )
    @given(cases)
    def check(case: _Case) -> None:
        case.call_and_validate(timeout=10)

    check()
