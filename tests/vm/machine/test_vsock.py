"""The CIDs of a user's guests and their sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.vm.machine.vsock import VsockEndpoint
from pyvmm.vm.option_values import VsockOptions

AUTO = VsockOptions()


class Guests:
    """Endpoints of several guests in one runtime directory."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self._resources = ExitStack()

    def start(self, name: str, options: VsockOptions = AUTO) -> VsockEndpoint:
        """Return the endpoint of a guest."""
        home = self.runtime / f"{name}.d"
        home.mkdir(exist_ok=True)
        endpoint = VsockEndpoint(options, home)
        self._resources.callback(endpoint.close)
        return endpoint

    def close(self) -> None:
        """Close all endpoints."""
        self._resources.close()


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    """Return an empty runtime directory."""
    guests = Guests(tmp_path)
    yield guests
    guests.close()


def test_each_guest_has_its_own_cid(guests: Guests) -> None:
    """The first free one from 3 on, or the one that is asked for; it is free again at the end."""
    first, second = guests.start("a"), guests.start("b")
    assert (first.cid, second.cid) == (3, 4)
    first.close()
    assert guests.start("c").cid == 3
    assert guests.start("d", VsockOptions(1000)).cid == 1000
    with pytest.raises(UserError, match="--vsock 1000: another guest has this CID"):
        guests.start("e", VsockOptions(1000))
    assert not (guests.runtime / "e.d/vsock").exists()


def test_guest_is_reached_by_its_cid(guests: Guests) -> None:
    """Through its socket, whose path may be long."""
    caller = guests.start("caller")
    callee = guests.start("x" * 120)
    caller.connect(callee.cid, 7).close()
    callee.listener.accept()[0].close()
    with pytest.raises(OSError, match="No such file"):
        caller.connect(77, 7)


def test_program_of_the_host_is_reached_by_its_port(guests: Guests, tmp_path: Path) -> None:
    """Its socket has the port in its name."""
    endpoint = guests.start("a", VsockOptions(5, tmp_path / "sock"))
    with socket.socket(socket.AF_UNIX) as program:
        program.bind(str(tmp_path / "sock_80"))
        program.listen()
        endpoint.connect(2, 80).close()
        program.accept()[0].close()
    with pytest.raises(OSError, match="refused"):
        endpoint.connect(2, 80)


def test_remains_of_a_killed_guest_are_replaced(guests: Guests, tmp_path: Path) -> None:
    """Its CID and its socket, on which nobody listens."""
    options = VsockOptions(9, tmp_path / "sock")
    killed = VsockEndpoint(options, tmp_path / "killed.d")
    killed.listener.close()
    assert guests.start("next", options).cid == 9


def test_what_is_in_the_way_stays(guests: Guests, tmp_path: Path) -> None:
    """A file, and a socket on which somebody listens."""
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "missing/sock", guests.start("a").path):
        with pytest.raises(UserError, match=f"--vsock: socket {path}: .*choose another"):
            guests.start("b", VsockOptions(None, path))
    assert (tmp_path / "file").read_text() == "precious"
    assert guests.start("b").cid == 4
