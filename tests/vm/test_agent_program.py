"""The guest agent itself, run on this machine over a socket."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import pack

import pytest

from pyvmm.vm import guests
from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.agent.command import AgentError, Output, Status, Stream
from pyvmm.vm.agent.protocol import (
    CHALLENGE_SIZE,
    FrameReader,
    Reply,
    Request,
    encode,
    exec_payload,
)
from tests.vm.agent_program import compile_for_guests, running_agent, source_digest
from tests.waiting import wait_until

PATIENCE = 30.0
SHELL = ("sh", "-c")


def is_gone(pid: int) -> bool:
    """Check whether a process has ended."""
    return not Path(f"/proc/{pid}").exists()


def open_files(pid: int) -> list[str]:
    """Return the numbers of a process's descriptors."""
    return sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir())


@pytest.fixture
def agent(agent_program: Path) -> Iterator[AgentClient]:
    """Return a client of an agent that may do everything."""
    with running_agent(agent_program, "exec") as (client, _):
        yield client


def test_committed_binary_is_made_from_the_sources(tmp_path: Path) -> None:
    """`make gen` renews it; the local compiler still accepts the sources for arm64."""
    assert f"source digest {source_digest()}".encode() in guests.agent()
    compile_for_guests(tmp_path / "agent", tmp_path)
    assert (tmp_path / "agent").read_bytes()[:20] == guests.agent()[:20]


def test_exec_keeps_streams_and_status_apart(agent: AgentClient) -> None:
    """Standard output, standard error, exit status."""
    done = agent.run([*SHELL, "echo out; echo err >&2; exit 3"], timeout=PATIENCE)
    assert (done.stdout, done.stderr, done.status) == (b"out\n", b"err\n", Status(3))


def test_exec_sets_variables_and_directory(agent: AgentClient, tmp_path: Path) -> None:
    """The request's variables replace the agent's; the others are inherited."""
    (tmp_path / "here").touch()
    with agent.start([*SHELL, 'ls; echo "$X$HOME"'], {"X": "a b"}, str(tmp_path)) as command:
        output = command.read(PATIENCE)
        while isinstance(more := command.read(PATIENCE), Output):
            assert isinstance(output, Output)
            output = Output(output.stream, output.data + more.data)
    assert output == Output(Stream.STDOUT, f"here\na b{os.environ['HOME']}\n".encode())


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        (["no-such-program"], 127, b"no-such-program: no such file"),
        (["/no/such/program"], 127, b"no such file"),
        (["/etc/passwd"], 126, b"/etc/passwd: permission denied"),
        (["/"], 126, b"/: permission denied"),
    ],
)
def test_exec_of_what_is_no_program_ends_as_in_a_shell(
    agent: AgentClient, argv: list[str], status: int, complaint: bytes
) -> None:
    """126 or 127, and why on standard error."""
    done = agent.run(argv, timeout=PATIENCE)
    assert (done.stdout, done.status) == (b"", Status(status))
    assert complaint in done.stderr


def test_exec_in_a_directory_that_is_not_there_fails(agent: AgentClient) -> None:
    """The command is not run somewhere else."""
    with agent.start(["true"], directory="/no/such") as command:
        output = command.read(PATIENCE)
        assert isinstance(output, Output)
        assert output.data.startswith(b"pyvmm-agent: /no/such: no such file or directory")
        assert command.read(PATIENCE) == Status(126)


def test_signal_ends_a_command_with_its_children(agent: AgentClient) -> None:
    """The status says which signal it was."""
    with agent.start([*SHELL, "echo up; sleep 1000; true"]) as command:
        assert command.read(PATIENCE) == Output(Stream.STDOUT, b"up\n")
        command.signal(15)
        assert command.read(PATIENCE) == Status(signal=15)


def test_large_streams_go_through_whole(agent: AgentClient, seed: int) -> None:
    """Input and output of many windows pass at the same time."""
    data = random.Random(seed).randbytes(3 << 20)
    done = agent.run(["cat"], stdin=data, timeout=PATIENCE)
    assert done.stdout == data
    assert done.status == Status()


def test_slow_reader_holds_up_only_itself(agent: AgentClient) -> None:
    """A command without end fills its window and waits, while others run."""
    with agent.start(["yes"]) as endless:
        assert isinstance(endless.read(PATIENCE), Output)
        for number in range(5):
            done = agent.run([*SHELL, f"echo {number}"], timeout=PATIENCE)
            assert done.stdout == f"{number}\n".encode()
        agent.ping(PATIENCE)


def test_command_that_does_not_read_holds_up_only_itself(agent: AgentClient) -> None:
    """Its input waits; others get theirs."""
    with agent.start(["sleep", "1000"]) as deaf:
        with pytest.raises(AgentError, match="read nothing"):
            deaf.feed(bytes(1 << 20), 0.2)
        assert agent.run(["cat"], stdin=b"x", timeout=PATIENCE).stdout == b"x"


def test_input_that_nobody_reads_is_dropped(agent: AgentClient) -> None:
    """A command that has closed its input, or ended, does not make the feeder wait."""
    script = "exec <&-; echo closed; read x <&1 2>/dev/null; sleep 1"
    with agent.start([*SHELL, script]) as command:
        assert command.read(PATIENCE) == Output(Stream.STDOUT, b"closed\n")
        command.feed(bytes(1 << 20), PATIENCE)
        command.end_input()


def test_grandchild_that_holds_the_output_does_not_hold_the_end(agent: AgentClient) -> None:
    """A command is over when its process is; what it wrote before comes."""
    start = time.monotonic()
    done = agent.run([*SHELL, "sleep 1000 & echo $!"], timeout=PATIENCE)
    os.kill(int(done.stdout), 9)
    assert done.status == Status()
    assert time.monotonic() - start < PATIENCE


def test_grandchild_that_writes_for_ever_does_not_hold_the_end(agent: AgentClient) -> None:
    """Output of its children after its end is not sent."""
    done = agent.run([*SHELL, "yes & echo $! >&2; sleep 0.1"], timeout=PATIENCE)
    assert done.status == Status()
    pid = int(done.stderr.split()[0])
    wait_until(lambda: is_gone(pid))  # its pipe is closed


def test_many_commands_at_once(agent: AgentClient) -> None:
    """One command per channel runs; one more is refused."""
    running = [agent.start(["cat"]) for _ in range(64)]
    with pytest.raises(AgentError, match="limit of commands"):
        agent.start(["cat"])
    for number, command in enumerate(running):
        command.feed(b"%d" % number, PATIENCE)
        command.end_input()
    for number, command in enumerate(running):
        assert command.read(PATIENCE) == Output(Stream.STDOUT, b"%d" % number)
        assert command.read(PATIENCE) == Status()


def test_commands_from_many_threads(agent: AgentClient) -> None:
    """Every thread gets its own answers."""

    def is_answered(number: int) -> bool:
        size = number * 10_000
        command = [*SHELL, f"head -c {size} /dev/zero; exit {number}"]
        ended = [agent.run(command, timeout=PATIENCE) for _ in range(10)]
        return all((len(e.stdout), e.status) == (size, Status(number)) for e in ended)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_answered, range(8)))


def test_agent_leaves_nothing_open(agent_program: Path) -> None:
    """After many commands, good and bad, it has the same descriptors and processes as before."""
    with running_agent(agent_program, "exec") as (client, pid):
        before = open_files(pid)
        for argv in (["true"], ["no-such-program"], [*SHELL, "kill -9 $$"]) * 30:
            client.run(argv, stdin=b"x", timeout=PATIENCE)
        with client.start(["sleep", "1000"]):
            pass
        client.ping(PATIENCE)
        children = Path(f"/proc/{pid}/task/{pid}/children")
        wait_until(lambda: not children.read_text())
        assert open_files(pid) == before


def test_commands_end_with_the_port(agent_program: Path) -> None:
    """When the host hangs up, the commands that it started are killed."""
    with running_agent(agent_program, "exec") as (client, _):
        command = client.start([*SHELL, "echo $$; sleep 1000"])
        output = command.read(PATIENCE)
        assert isinstance(output, Output)
    pid = int(output.data)
    wait_until(lambda: is_gone(pid))


def test_commands_end_with_the_agent(agent_program: Path) -> None:
    """The command ends even if the agent is killed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([agent_program, "exec", "0"], stdin=theirs.fileno())
        ours.sendall(encode(Request.EXEC, 1, exec_payload(["sleep", "1000"], {}, "")))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: children.read_text() != "")
        child = int(children.read_text())
        wait_until(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes())
        process.kill()
        process.wait()
    wait_until(lambda: is_gone(child))


def test_agent_does_what_it_was_started_for(agent_program: Path) -> None:
    """`attest` does not allow exec; `off` allows nothing."""
    with running_agent(agent_program, "attest") as (client, _):
        with pytest.raises(AgentError, match=r"pyvmm\.agent=exec"):
            client.start(["true"])
        with pytest.raises(AgentError, match=r"no token: .*this guest is not a realm"):
            client.attest(bytes(CHALLENGE_SIZE), PATIENCE)
    off = subprocess.run([agent_program, "off", "0"], stdin=subprocess.DEVNULL, check=False)
    assert off.returncode == 0
    usage = subprocess.run([agent_program], capture_output=True, check=False)
    assert (usage.returncode, usage.stderr.count(b"\n")) == (2, 1)


def test_agent_survives_any_host(agent_program: Path, seed: int) -> None:
    """After frames with wrong string counts and noise in between it answers the next ping."""
    rng = random.Random(seed)
    programs = (b"/bin/true", b"/no/such", b"")
    for _ in range(20):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen([agent_program, "exec", "0"], stdin=theirs.fileno())
            theirs.close()
            for _ in range(40):
                ours.sendall(_hostile_frame(rng, programs))
            ours.sendall(encode(Request.PING, 0, b"still there"))
            ours.settimeout(PATIENCE)
            said = b""
            while b"still there" not in said:
                more = ours.recv(1 << 16)
                assert more, "the agent is gone"
                said += more
            kinds = {frame.type for frame in FrameReader().feed(said)}
            assert Reply.HELLO in kinds <= set(Reply)
        assert process.wait(PATIENCE) == 0


def _hostile_frame(rng: random.Random, programs: tuple[bytes, ...]) -> bytes:
    channel = rng.randrange(4)
    match rng.randrange(4):
        case 0:
            words = [rng.choice(programs) for _ in range(rng.randrange(5))]
            counts = pack("<HH", rng.choice((0, 1, 2, 3, 0xFFFF)), rng.choice((0, 1, 0xFFFF)))
            end = rng.choice((b"\0", b"\0", b""))
            return encode(Request.EXEC, channel, counts + b"\0" + b"\0".join(words) + end)
        case 1:
            return encode(Request.STDIN, channel, bytes(rng.choice((0, 1, 16384, 16385, 60000))))
        case 2:
            payload = rng.randbytes(rng.choice((0, 3, 4, 64)))
            return pack("<IHH", channel, rng.randrange(4, 12), len(payload)) + payload
        case _:
            return encode(Request.GRANT, channel, rng.choice((b"\xff" * 4, b"\0" * 4, b"\1\0\0\0")))
