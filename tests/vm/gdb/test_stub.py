"""Each command of the protocol on a guest that runs on the real core."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.host.registers import CORE, FLOATING
from pyvmm.vm.gdb import stub as gdb
from pyvmm.vm.gdb.packets import MAX_PACKET
from pyvmm.vm.gdb.stub import Stub
from pyvmm.vm.gdb.target import REGISTERS
from tests.host.debug_rig import CALL, CODE, COUNT, DATA, LEAF, PATIENCE, STORE, Rig
from tests.waiting import wait_until

X7, SP, PC, CPSR, V0 = 7, 31, 32, 33, 34


class Player:
    """The guest's operations for the stub; records the calls."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.is_killed = False

    def monitor(self, command: str) -> str:
        """Return the command backwards."""
        self.commands.append(command)
        return command[::-1]

    def kill(self) -> None:
        """Record the call."""
        self.is_killed = True


class Session:
    """A stub and its guest, stopped before the first instruction."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        rig.attach()
        self.player = Player()
        self.stub = Stub(rig.port, self.player)

    def ask(self, command: str | bytes) -> str:
        """Execute a command that has an answer."""
        reply = self.stub.handle(command.encode() if isinstance(command, str) else command)
        assert reply is not None
        return reply.decode("latin1")

    def go(self, command: str = "vCont;c") -> str:
        """Execute a command that resumes; return the stop reply."""
        self.rig.stopped.clear()
        assert self.stub.handle(command.encode()) is None
        while True:
            assert self.rig.stopped.wait(PATIENCE)
            self.rig.stopped.clear()
            reply = self.stub.stopped()
            if reply is not None:
                return reply.decode()

    def register(self, number: int) -> int:
        """Read a register."""
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")


@pytest.fixture
def session() -> Iterator[Session]:
    """Return a session with one vCPU."""
    with Rig() as rig:
        made = Session(rig)
        rig.start()
        yield made


@pytest.fixture
def pair() -> Iterator[Session]:
    """Return a session with two vCPUs, both counting before they were stopped."""
    with Rig(num_cpus=2) as rig:
        rig.start()
        wait_until(rig.all_count)
        yield Session(rig)


def test_what_the_stub_can_is_told(session: Session) -> None:
    """It also accepts what the debugger supports."""
    features = session.ask("qSupported:multiprocess+;swbreak+;xmlRegisters=i386").split(";")
    assert f"PacketSize={MAX_PACKET:x}" in features
    assert {"qXfer:features:read+", "QStartNoAckMode+", "vContSupported+"} <= set(features)
    session.ask(f"Z0,{CODE + STORE:x},4")
    assert "swbreak:;" in session.go()
    assert session.ask("vCont?") == "vCont;c;C;s;S"
    assert session.ask("QStartNoAckMode") == "OK"
    assert session.stub.wants_no_acks


def test_the_target_is_described(session: Session) -> None:
    """The parts together are XML with all registers in order."""
    text, part = "", "m"
    while part[0] == "m":
        part = session.ask(f"qXfer:features:read:target.xml:{len(text):x},100")
        text += part[1:]
    root = ET.fromstring(text)  # noqa: S314  our own
    found = [(r.get("name"), int(r.get("bitsize", ""))) for r in root.iter("reg")]
    assert found == [(register.name, register.bits) for register in REGISTERS]
    assert [feature.get("name") for feature in root.iter("feature")] == [
        "org.gnu.gdb.aarch64.core",
        "org.gnu.gdb.aarch64.fpu",
        "org.gnu.gdb.aarch64.pauth_v2",
        "org.pyvmm.aarch64.system",
    ]
    types = {e.get("id") for e in root.iter() if e.get("id")}
    builtin = {"int", "data_ptr", "code_ptr"}
    assert {r.get("type") for r in root.iter("reg")} <= types | builtin
    assert session.ask("qXfer:features:read:other.xml:0,100") == "E00"
    assert session.ask(f"qXfer:features:read:target.xml:{len(text):x},100") == "l"


def test_registers_together_and_one_by_one(session: Session) -> None:
    """Commands g, G, p and P are little-endian; PSTATE selects the SP, though SP comes first."""
    everything = session.ask("g")
    assert len(everything) == 2 * sum(r.bits // 8 for r in (*CORE, *FLOATING))
    assert session.register(PC) == CODE
    assert session.ask("P7=8877665544332211") == "OK"
    assert session.register(X7) == 0x1122_3344_5566_7788
    assert session.ask("P22=" + bytes(range(16)).hex()) == "OK"  # v0
    assert session.ask("p22") == bytes(range(16)).hex()
    assert session.ask(f"P{SP:x}=" + "22" * 8) == "OK"
    changed = bytearray.fromhex(session.ask("g"))
    changed[4 * 8] = 0x44
    changed[SP * 8 : SP * 8 + 8] = b"\x33" * 8
    changed[33 * 8] = 0xC4  # EL1t
    assert session.ask("G" + changed.hex()) == "OK"
    assert session.ask("g") == changed.hex()
    registers = session.rig.port.registers(0)
    assert (registers.sp_el0, registers.sp_el1) == (0x3333_3333_3333_3333, 0x2222_2222_2222_2222)


@pytest.mark.parametrize(
    "command",
    [
        "p", "pzz", "pffff", "P7", "P7=", "P7=11", "P7=112233445566778899", "P7=zz", "Pffff=00",
        "P21=0d000000", "m", "m0", "m0,", "m,4", "m0,4,5", "m-1,4", "m0x0,4", "m 1,4",
        "M0,4:11", "M80000000,1:1", "M80000000,1:zz", "X80000000,4:1", "Z0,1", "Z5,80000000,4",
        "Z9,80000000,4", "z7,0,0", "Z2,80000000,0", "Hg99", "Hc99", "Hx1", "H", "T0f", "Tzz",
        "qThreadExtraInfo,9", "vCont;x", "vCont;", "vCont;c:9", "vCont;t", "vCont;s:zz", "cxyz",
        "szz", "qRcmd,1", "qRcmd,zz", "qXfer:features:read:target.xml:zz", "m10000000000000000,1",
    ],
)  # fmt: skip
def test_nonsense_is_an_error_and_changes_nothing(session: Session, command: str) -> None:
    """The answer is E16; the guest does not move."""
    before = session.ask("g")
    assert session.ask(command) == "E16"
    assert session.ask("g") == before
    assert not session.stub.is_running


@pytest.mark.parametrize(
    "command", ["", "qCRC:0,4", "vMustReplyEmpty", "vFile:setfs:0", "QNonStop:1", "!", "R00", "b"]
)
def test_what_there_is_not_has_an_empty_answer(session: Session, command: str) -> None:
    """The protocol requires an empty answer."""
    assert session.ask(command) == ""


def test_memory(session: Session) -> None:
    """Reads are hexadecimal, writes hexadecimal or binary; unmapped memory gives E0e."""
    assert session.ask(f"M{DATA + 0xFFE:x},4:01020304") == "OK"
    assert session.ask(f"m{DATA + 0xFFE:x},4") == "01020304"
    assert session.ask(b"X%x,3:}#\x00" % DATA) == "OK"
    assert session.ask(f"m{DATA:x},4") == "7d230000"
    assert session.ask("X80000000,0:") == "OK"
    assert session.ask("m0,4") == "E0e"
    assert session.ask("M0,1:00") == "E0e"
    assert session.ask("m801ffffe,10") == "0000"
    assert len(session.ask(f"m{DATA:x},ffff")) <= MAX_PACKET


def test_breakpoints(session: Session) -> None:
    """Software and hardware breakpoints share one; it stays while either exists."""
    for type_ in "01":
        assert session.ask(f"Z{type_},{CODE + STORE:x},4") == "OK"
    assert session.go() == "T05thread:1;"
    assert session.register(PC) == CODE + STORE
    assert session.ask(f"z0,{CODE + STORE:x},4") == "OK"
    assert session.go() == "T05thread:1;"
    assert session.ask(f"z1,{CODE + STORE:x},4") == "OK"
    assert session.ask(f"z1,{CODE + STORE:x},4") == "OK"
    assert session.ask(f"Z1,{CODE + LEAF:x},4;X0,") == "OK"
    session.go()
    assert session.register(PC) == CODE + LEAF


def test_there_is_room_for_so_many(session: Session) -> None:
    """The answer is E1c after 256 breakpoints or 16 watchpoints; the others are kept."""
    for n in range(256):
        assert session.ask(f"Z0,{CODE + LEAF + 4 * n:x},4") == "OK"
    assert session.ask("Z0,1000,4") == "E1c"
    for n in range(16):
        assert session.ask(f"Z2,{n:x},1") == "OK"
    assert session.ask("Z3,1000,4") == "E1c"
    session.go()
    assert session.register(PC) == CODE + LEAF


@pytest.mark.parametrize(("type_", "name"), [(2, "watch"), (4, "awatch")])
def test_watchpoints(session: Session, type_: int, name: str) -> None:
    """The stop has the kind and the address; it comes before the store."""
    assert session.ask(f"Z3,{DATA:x},8") == "OK"
    assert session.ask(f"Z{type_},{DATA + 2:x},1") == "OK"
    assert session.go() == f"T05{name}:{DATA + 2:x};thread:1;"
    assert (session.register(PC), session.rig.counter()) == (CODE + STORE, 0)


@pytest.mark.parametrize("command", ["s", "S05", "vCont;s:1", "vCont;S05:1;c", "vCont;s"])
def test_steps(session: Session, command: str) -> None:
    """All commands that step."""
    assert session.go(command) == "T05thread:1;"
    assert session.register(PC) == CODE + 4


@pytest.mark.parametrize(
    "command", ["c", "C05", "vCont;c", "vCont;c:1", "vCont;C02:1", "vCont;c:-1"]
)
def test_continues(session: Session, command: str) -> None:
    """All commands that continue; meanwhile only a break is accepted."""
    assert session.stub.handle(command.encode()) is None
    wait_until(lambda: session.rig.counter() > 100)
    assert session.stub.handle(b"g") is None
    assert session.stub.interrupt() == b"T02thread:1;"
    assert session.stub.interrupt() is None
    assert session.ask("?") == "T02thread:1;"
    before = session.rig.counter()
    assert session.rig.counter() == before


def test_going_on_elsewhere(session: Session) -> None:
    """Commands c and s with an address."""
    session.go(f"s{CODE + LEAF - 4:x}")
    assert session.register(PC) == CODE + COUNT
    session.ask(f"Z0,{CODE + CALL:x},4")
    session.go(f"c{CODE + STORE - 4:x}")
    assert session.register(PC) == CODE + CALL


def test_threads_are_vcpus(pair: Session) -> None:
    """Threads are listed and alive; registers are those of the selected one."""
    assert (pair.ask("qfThreadInfo"), pair.ask("qsThreadInfo")) == ("m1,2", "l")
    assert bytes.fromhex(pair.ask("qThreadExtraInfo,2")) == b"CPU 1, on"
    assert (pair.ask("T1"), pair.ask("T2"), pair.ask("qC")) == ("OK", "OK", "QC1")
    values = []
    for thread in (1, 2):
        assert pair.ask(f"Hg{thread}") == "OK"
        values.append(pair.register(6))
    assert values == [DATA, DATA + 8]
    assert pair.ask("qC") == "QC2"


def test_one_thread_can_go_on_alone(pair: Session) -> None:
    """With vCont and a thread, and with Hc, the other vCPU stands still."""
    before = pair.rig.counter(0)
    for _ in range(10):
        assert pair.go("vCont;s:2") == "T05thread:2;"
    assert pair.ask("Hc2") == "OK"
    for _ in range(10):
        assert pair.go("s") == "T05thread:2;"
    assert pair.rig.counter(0) == before
    assert pair.ask("Hc0") == "OK"
    pair.ask("Hg1")
    pair.ask(f"Z0,{CODE + LEAF:x},4")
    pair.go("c")


def test_the_first_action_counts(pair: Session) -> None:
    """For each thread the first action counts."""
    before = pair.rig.counter(1)
    pair.ask(f"Z2,{DATA:x},8")
    assert "thread:1;" in pair.go("vCont;c:1;s:1")
    assert pair.rig.counter(1) == before


def test_monitor(session: Session) -> None:
    """The text is passed unchanged; no text gives OK."""
    assert bytes.fromhex(session.ask("qRcmd," + b"info x".hex())) == b"x ofni"
    assert session.player.commands == ["info x"]
    assert session.ask("qRcmd,") == "OK"
    assert bytes.fromhex(session.ask("qRcmd,fffe"))
    assert len(session.ask("qRcmd," + "41" * (MAX_PACKET // 2))) <= MAX_PACKET


def test_leaving(session: Session) -> None:
    """Commands D and k end the session; the server handles the guest."""
    assert session.ask("qAttached") == "1"
    assert session.ask("D") == "OK"
    assert session.stub.is_over
    assert not session.player.is_killed
    for command in ("k", "vKill;1"):
        session.ask(command)
    assert session.player.is_killed


ALPHABET = st.one_of(
    st.sampled_from([prefix.decode() for prefix in gdb.commands()]),
    st.sampled_from(["", ",", ":", ";", "=", "-", "0", "1", "2", "ff", "80000000", "target.xml"]),
    st.text(max_size=4),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ALPHABET, max_size=6).map("".join), max_size=30))
def test_no_command_raises(session: Session, commands: list[str]) -> None:
    """Any commands in any order get an answer, or the guest runs until a break."""
    for command in commands:
        reply = session.stub.handle(command.encode("utf-8", "surrogateescape"))
        if reply is None:
            assert session.stub.is_running
            assert session.stub.interrupt() is not None
        else:
            assert len(reply) <= MAX_PACKET
