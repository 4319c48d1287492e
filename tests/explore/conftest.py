"""An observed realm, and a server of its page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets import Origin
from websockets.sync.client import ClientConnection, connect

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.inside import verb
from tests.cli.instance import REALM, create, running
from tests.cli.kernels import MAPPED, kernel
from tests.waiting import wait_until

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Address:
    """The address that `pyvmm explore` prints."""

    url: str

    @property
    def origin(self) -> str:
        """The scheme and the authority."""
        return "http://" + self.host

    @property
    def host(self) -> str:
        """The authority."""
        return urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        """The path, with the token."""
        return urlsplit(self.url).path


@contextmanager
def serving(*arguments: str) -> Iterator[Address]:
    """Run `pyvmm explore`."""
    with running("explore", *arguments) as process:
        assert process.stdout is not None
        yield Address(process.stdout.readline().decode().strip())


@contextmanager
def existing(name: str, *options: str | Path) -> Iterator[str]:
    """Create an instance; destroy it afterwards."""
    create(name, *options)
    try:
        yield name
    finally:
        pyvmm("destroy", name, "--timeout", "0")


@pytest.fixture(scope="module")
def realm() -> Iterator[str]:
    """Return the name of an observed realm, which is not started."""
    with existing("watched", *REALM, "--observe") as name:
        yield name


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the name of a realm that counts, with tables of its own; debuggable, and paused."""
    file = kernel(tmp_path_factory.mktemp("counting"), MAPPED)
    with existing("counting", *REALM, "--realm-debug", "--observe", file) as name:
        assert pyvmm("start", name).code == ExitCode.OK
        wait_until(lambda: has_counted(name))
        assert verb("pause", name).code == ExitCode.OK
        yield name


def has_counted(name: str) -> bool:
    """Return whether the guest is in its loop."""
    (vcpu,) = json.loads(verb("debug", name, "--json").output)
    return int(vcpu["registers"]["x5"], 16) > 0


@pytest.fixture(scope="module")
def page(realm: str) -> Iterator[Address]:
    """Return the address of a server for the realm."""
    with serving(realm) as address:
        yield address


class Browser:
    """A WebSocket like the page's."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.state = ""  # of the instance

    def send(self, **message: object) -> None:
        """Send a message."""
        self.socket.send(json.dumps(message))

    def receive(self, kind: str = "") -> Json:
        """Return the next message, of a kind if one is given."""
        while True:
            message = json.loads(self.socket.recv(30))
            assert isinstance(message, dict)
            if message["type"] == "status" and message["status"] is not None:
                self.state = message["status"]["state"]
            if message["type"] == kind or not kind:
                return message

    def ask(self, method: str, **params: object) -> Json:
        """Return the answer to a question."""
        self.send(type="ask", id=1, method=method, params=params)
        return self.receive("answer")


@contextmanager
def browsing(address: Address) -> Iterator[Browser]:
    """Connect to the server; a message that is not received yet stays in the connection."""
    url = f"ws://{address.host}{address.path}live"
    origin = Origin(address.origin)
    with connect(url, origin=origin, max_size=None, max_queue=1, ping_interval=None) as socket:
        yield Browser(socket)
