"""The socket: who may connect, what a peer can do, and what remains when it leaves."""

import errno
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.host.guest import Outcome
from pyvmm.vm.gdb.packets import MAX_PACKET
from pyvmm.vm.gdb.server import GdbServer, listen
from pyvmm.vm.gdb.stub import commands
from pyvmm.vm.option_values import GdbAddress
from tests.host.debug_rig import CODE, DATA, PATIENCE, STORE, Rig
from tests.receiving import receive_exactly
from tests.shortage import BusyListener
from tests.vm.gdb.client import Client, Stopped
from tests.waiting import wait_until

PC = 32
ANY_PORT = GdbAddress(port=0)


class Player:
    """The guest's operations for the server."""

    def __init__(self, rig: Rig) -> None:
        self.kill = rig.vm.stop

    def monitor(self, command: str) -> str:
        """Return the command."""
        return command


class Served:
    """A guest that counts, with a server."""

    def __init__(self, rig: Rig, address: GdbAddress) -> None:
        self.rig = rig
        self.server = GdbServer(address, rig.port, Player(rig))
        self.server.start()

    def connect(self) -> Client:
        """Connect a debugger."""
        path = Path(self.server.address)
        return Client(path if path.is_absolute() else self.server.address)

    def is_counting(self) -> bool:
        """Check whether the guest runs, after a short wait."""
        before = self.rig.counter()
        wait_until(lambda: self.rig.counter() > before)
        return True


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve a running guest of two vCPUs at a port."""
    with Rig(num_cpus=2) as rig:
        rig.start()
        wait_until(rig.all_count)
        made = Served(rig, ANY_PORT)
        yield made
        made.server.close()


def test_a_debugger_finds_the_guest_stopped_and_leaves_it_running(served: Served) -> None:
    """The guest stands still from connecting to detaching."""
    assert served.is_counting()
    with served.connect() as client:
        assert client.ask("?") == "T05thread:1;"
        before = served.rig.counter()
        client.no_acks()
        assert client.ask("g") == client.ask("g")
        assert served.rig.counter() == before
        assert client.ask(f"Z0,{CODE + STORE:x},4") == "OK"
        assert client.ask("D") == "OK"
        assert client.is_closed()
    assert served.is_counting()


def test_breakpoints_steps_and_breaks(served: Served) -> None:
    """A stop reply follows a breakpoint and a break."""
    with served.connect() as client:
        client.ask("qSupported:hwbreak+")
        client.ask(f"Z1,{CODE + STORE:x},4")
        stop = client.go()
        assert (stop.signal, stop.reasons) == (5, {"hwbreak": ""})
        assert client.register(PC) == CODE + STORE
        client.ask(f"z1,{CODE + STORE:x},4")
        assert client.go(f"vCont;s:{stop.thread}") == Stopped(5, stop.thread, {})
        assert client.register(PC) == CODE + STORE + 4
        client.send("vCont;c")
        assert served.is_counting()
        assert client.interrupt().signal == 2


def test_both_vcpus_hit_a_watchpoint(served: Served) -> None:
    """Each vCPU is a thread."""
    with served.connect() as client:
        found = set()
        for cpu in range(2):
            client.ask(f"Z2,{DATA + 8 * cpu:x},8")
            stop = client.go()
            client.ask(f"z2,{DATA + 8 * cpu:x},8")
            assert stop.reasons == {"watch": f"{DATA + 8 * cpu:x}"}
            found.add(stop.thread)
        assert found == {1, 2}


@pytest.mark.parametrize("state", ["stopped", "stepping", "running", "in a packet"])
def test_a_debugger_that_vanishes_leaves_no_trace(served: Served, state: str) -> None:
    """The guest continues without breakpoints; the next debugger may connect."""
    client = served.connect()
    client.ask(f"Z0,{CODE + STORE:x},4")
    if state == "stepping":
        client.send("vCont;s:1")
    elif state == "running":
        client.ask(f"z0,{CODE + STORE:x},4")
        client.send("vCont;c")
    elif state == "in a packet":
        client.socket.sendall(b"$m8000")
    client.close()
    assert served.is_counting()
    with served.connect() as second:
        assert second.ask("?") == "T05thread:1;"
        assert second.ask("D") == "OK"


def test_a_second_debugger_waits_for_the_first(served: Served) -> None:
    """It is served when the first has left."""
    with served.connect() as first, served.connect() as second:
        second.send("?")
        assert first.ask("?") == "T05thread:1;"
        first.ask("D")
        first.close()
        assert second.receive() == b"T05thread:1;"


def test_acknowledgements(served: Served) -> None:
    """Each packet gets one until they are switched off; a rejected answer is sent again."""
    with served.connect() as client:
        client.socket.sendall(b"$?#00")
        assert client.socket.recv(10) == b"-"
        client.send("qC")
        assert client.receive() == b"QC1"
        client.socket.sendall(b"-")
        assert client.receive() == b"QC1"
        client.no_acks()
        client.send("qC")
        assert receive_exactly(client.socket, 3) == b"$QC"


@pytest.mark.parametrize("junk", [b"$" + bytes(MAX_PACKET + 10), b"$" * (MAX_PACKET + 10)])
def test_what_is_too_long_ends_the_connection(served: Served, junk: bytes) -> None:
    """Only that connection ends."""
    with served.connect() as client:
        client.socket.sendall(junk)
        assert client.is_closed()
    assert served.is_counting()


def test_a_peer_that_reads_nothing_is_left(served: Served) -> None:
    """Its answers are not buffered without limit, and the stub serves the next debugger."""
    with served.connect() as client:
        question = b"$m%x,1fff#" % CODE
        question += b"%02x" % (sum(question[1:-1]) & 0xFF)
        client.socket.settimeout(1)
        deadline = time.monotonic() + PATIENCE
        with suppress(OSError):
            while time.monotonic() < deadline:
                client.socket.sendall(question)
        assert time.monotonic() < deadline, "it took all of it"
    assert served.is_counting()


def test_any_bytes_do_no_harm(served: Served, seed: int) -> None:
    """Invalid packets, halves of packets and breaks; the guest continues afterwards."""
    rng = random.Random(seed)
    known = sorted(commands())
    for _ in range(40):
        with suppress(ConnectionError), served.connect() as client:  # D is answered and hung up on
            for _ in range(rng.randrange(30)):
                body = rng.choice(known) + rng.randbytes(rng.randrange(6))
                body += rng.choice((b"", b"1", b"80000000,4", b":", b"ffffffffffffffff,ffff"))
                body = rng.choice((body, body, rng.randbytes(8)))
                if body[:1] in b"kv":  # a debugger may kill the guest
                    continue
                if body[:1] in b"cCsS":  # and may choose where to continue
                    body = body[:1]
                try:
                    client.send(body)
                    if not rng.randrange(4):
                        client.socket.sendall(rng.choice((b"\x03", b"-", b"$", b"#00", b"+++")))
                except ConnectionError:  # it was a detach
                    break
        assert served.is_counting()
    with served.connect() as client:
        assert client.ask("?").startswith("T05")


def test_killing_is_pulling_the_plug(served: Served) -> None:
    """Command k ends the guest."""
    with served.connect() as client:
        client.send("k")
        assert served.rig.vm.wait(PATIENCE) is Outcome.STOPPED


@pytest.mark.parametrize(
    ("outcome", "told"),
    [(Outcome.OFF, b"W00"), (Outcome.RESET, b"W00"), (Outcome.CRASHED, b"X06"), (None, b"W00")],
)
def test_the_end_of_the_guest_is_told(served: Served, outcome: Outcome | None, told: bytes) -> None:
    """It looks like the end of a process; then the socket is closed."""
    with served.connect() as client:
        assert client.ask("?") == "T05thread:1;"
        client.send("vCont;c")
        wait_until(served.is_counting)
        served.server.close(outcome)
        assert client.receive() == told
        assert client.is_closed()


# --- addresses ------------------------------------------------------------------------------------


def test_a_unix_socket_is_its_owner_s(tmp_path: Path) -> None:
    """Its mode is 0600, it is removed at the end, and it replaces a leftover of an earlier run."""
    path = tmp_path / "gdb"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Rig() as rig:
        rig.start()
        served = Served(rig, GdbAddress(path=path))
        assert path.stat().st_mode & 0o777 == 0o600
        with served.connect() as client:
            assert client.ask("?") == "T05thread:1;"
        served.server.close()
        assert not path.exists()


def test_nothing_but_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    """A file, or a socket that another process serves, is kept."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="file: Address already in use"):
        listen(GdbAddress(path=file))
    assert file.read_text() == "mine"
    alive = GdbAddress(path=tmp_path / "alive")
    with listen(alive), pytest.raises(UserError, match="in use"):
        listen(alive)
    with pytest.raises(UserError, match="No such file or directory"):
        listen(GdbAddress(path=tmp_path / "none" / "gdb"))


def test_what_took_the_place_of_its_socket_stays(tmp_path: Path) -> None:
    """The server does not remove it."""
    path = tmp_path / "gdb"
    with Rig() as rig:
        served = Served(rig, GdbAddress(path=path))
        path.unlink()
        path.write_text("mine")
        served.server.close()
        assert path.read_text() == "mine"


def test_a_port_is_of_the_loopback_and_of_one_process() -> None:
    """An address in use is a user's mistake."""
    with listen(ANY_PORT) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(UserError, match=f"--gdb {port}: Address already in use"):
            listen(GdbAddress(port=port))


def open_files() -> set[str]:
    """Return the descriptors that are open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_server_leaves_nothing_behind(tmp_path: Path) -> None:
    """No thread and no descriptor remains."""
    with Rig() as rig:
        rig.start()
        before = open_files()
        served = Served(rig, GdbAddress(path=tmp_path / "gdb"))
        served.connect().close()
        assert served.is_counting()
        served.server.close()
        served.server.close()
        assert "pyvmm-gdb" not in {thread.name for thread in threading.enumerate()}
        assert open_files() <= before


def test_a_debugger_waits_while_it_cannot_be_let_in(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits for a free descriptor without using the CPU."""
    busy = BusyListener(served.server._listener, *[errno.EMFILE] * 20)
    monkeypatch.setattr(served.server, "_listener", busy)
    start = time.monotonic()
    with served.connect() as client:
        client.send("?")
        assert client.receive()
    assert time.monotonic() - start > 0.1
