"""The backend of a guest's network: the requested one, else one that this host has."""

import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.devices import libslirp
from pyvmm.devices.ioloop import IoLoop
from pyvmm.devices.net_stream import StreamBackend
from pyvmm.devices.tree import Place
from pyvmm.vm.machine.network import open_backend
from pyvmm.vm.machine.plan import Kind, device_plan
from pyvmm.vm.network_options import NetworkOptions, parse_networks
from pyvmm.vm.options import VmOptions
from tests.devices.test_net_tap import needs_tun

needs_slirp = pytest.mark.skipif(not libslirp.is_installed(), reason="libslirp is not installed")


def card(text: str) -> NetworkOptions:
    """Parse options of a network card."""
    (network,) = parse_networks([text])
    return network


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that is the only one in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put_passt(directory: Path, script: str) -> None:
    """Install a passt."""
    passt = directory / "passt"
    passt.write_text(f"#!/bin/sh\n{script}\n")
    passt.chmod(0o755)


def test_passt_that_does_not_start_leaves_a_way_out(programs: Path, loop: IoLoop) -> None:
    """An installed passt that fails is reported, not silently replaced."""
    put_passt(programs, "echo Not permitted >&2; exit 1")
    words = "^passt: Not permitted; backend=slirp does not need passt$"
    with pytest.raises(UserError, match=words):
        open_backend(card("mode=user"), loop)
    with pytest.raises(UserError, match=r"^passt: Not permitted$"):
        open_backend(card("backend=passt"), loop)


@pytest.mark.parametrize("options", ["mode=user", "backend=passt"])
def test_passt_is_first(programs: Path, loop: IoLoop, options: str) -> None:
    """Passt is preferred: it is made for this, and fast."""
    put_passt(programs, f"echo started >{programs}/log")
    with closing(open_backend(card(options), loop)):
        assert (programs / "log").read_text() == "started\n"


@needs_slirp
@pytest.mark.parametrize("options", ["mode=user", "backend=slirp"])
def test_libslirp_is_second(programs: Path, loop: IoLoop, options: str) -> None:
    """Libslirp is used if passt is missing, or on request."""
    if options == "backend=slirp":
        put_passt(programs, f"echo started >{programs}/log")
    with closing(open_backend(card(options), loop)) as backend:
        assert isinstance(backend, StreamBackend)
    assert not (programs / "log").exists()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("mode=user", "install the package passt or libslirp0, or give -n mode=tap"),
        ("backend=passt", "install the package passt"),
        ("backend=slirp", "install the package libslirp0"),
    ],
)
def test_neither_is_refused_in_one_line(
    loop: IoLoop, monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    """The error names the package to install."""
    monkeypatch.setattr(libslirp, "_LIBRARY", "libslirp.so.none")
    with pytest.raises(UserError, match=f"{words}$"):
        open_backend(card(options), loop)


def test_guests_are_connected_through_a_socket(tmp_path: Path, loop: IoLoop) -> None:
    """One listens, at a path that only its owner can use; the other connects."""
    path = tmp_path / "lan"
    with closing(open_backend(card(f"mode=socket,listen={path},mtu=9000"), loop)) as here:
        assert path.stat().st_mode & 0o777 == 0o600
        with closing(open_backend(card(f"mode=socket,connect={path}"), loop)) as there:
            assert (here.mtu, there.mtu) == (9000, 1500)
        with pytest.raises(UserError, match="Address already in use: choose another path"):
            open_backend(card(f"mode=socket,listen={path}"), loop)
    assert not path.exists()


def test_socket_that_a_killed_guest_left_is_replaced(tmp_path: Path, loop: IoLoop) -> None:
    """Nobody listens there any more."""
    path = tmp_path / "lan"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    open_backend(card(f"mode=socket,listen={path}"), loop).close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("listen={}/none/lan", "No such file or directory: choose another path"),
        ("listen={}/file", "Address already in use: choose another path"),
        ("listen={}/" + "x" * 120, "path too long: choose another path"),
        ("connect={}/lan", "No such file or directory: start the guest that listens there first"),
        ("connect={}/file", "Connection refused: start the guest that listens there first"),
        ("connect={}/" + "x" * 120, "path too long"),
    ],
)
def test_socket_that_cannot_be_used_is_refused(
    tmp_path: Path, loop: IoLoop, text: str, words: str
) -> None:
    """In one line; what is at the path stays."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=words):
        open_backend(card(f"mode=socket,{text.format(tmp_path)}"), loop)
    assert (tmp_path / "file").read_text() == "mine"


def test_cards_change_the_measured_tree_only_by_their_number() -> None:
    """Whatever a card is connected to, its place and its node are the same."""

    def places(*texts: str) -> list[tuple[str, Place]]:
        plan = device_plan(VmOptions(networks=parse_networks(texts)))
        return [(each.name, each.place) for each in plan if each.kind == Kind.NET]

    assert places() == places("mode=none") == []
    one = places("mode=user")
    assert one == places("mode=tap,tapif=tap0,mq=8,mtu=9000,mac=02:00:00:00:00:01")
    assert [name for name, _ in one] == ["net0"]
    two = places("mode=user", "mode=socket,connect=/run/lan")
    assert two[0] == one[0]
    assert two[1][0] == "net1"


@needs_tun
def test_tap_interface_that_does_not_fit_is_refused(loop: IoLoop) -> None:
    """It has too few queues, or carries shorter packets: the error has the command."""
    name = f"pvn{os.getpid()}"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    try:
        for key, words in (("mq=2", "mode tap multi_queue"), ("mtu=9000", f"{name} mtu 9000")):
            with pytest.raises(UserError, match=f"^-n {key}: {name} has .*{words}$"):
                open_backend(card(f"mode=tap,tapif={name},{key}"), loop)
        with closing(open_backend(card(f"mode=tap,tapif={name},mtu=1400"), loop)) as backend:
            assert (backend.mtu, backend.num_queues) == (1400, 1)
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)
