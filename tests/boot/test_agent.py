"""The guest agent in real guests: Debian's image, and root file systems of one program."""

import json
import random
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyvmm.vm.agent.client import AgentClient
from pyvmm.vm.agent.command import AgentError, Output, Status, Stream
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.images.rootfs import EntryPoint, build_rootfs
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.boot.command import copy_disk, guest_options, is_clean, pyvmm
from tests.boot.inside import Inside
from tests.boot.shell import PATIENCE, Answer
from tests.userland.build import COMPILE

pytestmark = pytest.mark.boot

GONE = "while pgrep -x {} >/dev/null; do :; done"
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    for (int n = 1; n < count; n++)
        printf("argument %s\n", words[n]);
    int is_foreground = getpid() == tcgetpgrp(0);
    printf("GREETING %s, foreground %d, on %s\n", getenv("GREETING"), is_foreground, ttyname(0));
    char line[256] = "";
    FILE *file = fopen("/proc/mounts", "r");
    while (fgets(line, sizeof line, file))
        printf("mount %s", strchr(line, ' ') + 1);
    file = fopen("/data", "a");
    fputs("written", file);
    fclose(file);
    puts("waiting");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 99;
    for (int n = 0; n < 300; n++)
        printf("last words %d\n", n);
    return atoi(line);
}
"""


def options(image: Image, disk: Path, params: str = "", *, is_realm: bool) -> VmOptions:
    """Return a guest with an agent."""
    words = f"console=ttyS0 root=/dev/vda rw {params}"
    return VmOptions(
        kernel=image.kernel,
        initrd=image.initrd,
        disks=(DiskOptions(disk),),
        params=words,
        has_defaults=False,
        is_realm=is_realm,
        wants_agent=True,
    )


@pytest.fixture(scope="module")
def guest(debian: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """Boot Debian in a realm."""
    disk = copy_disk(debian, tmp_path_factory.mktemp("agent"))
    with Inside(options(debian, disk, is_realm=True)) as guest:
        guest.instance.agent.wait_ready(PATIENCE)
        guest.shell.log_in()
        yield guest
        with pytest.raises(AgentError, match="is gone"):
            guest.instance.agent.run(["poweroff"], timeout=PATIENCE)
        assert guest.wait() is ExitCode.OK
    assert is_clean(disk)


@pytest.fixture
def agent(guest: Inside) -> AgentClient:
    """Return the client of its agent."""
    return guest.instance.agent


def test_exec_in_a_guest(agent: AgentClient) -> None:
    """Streams, status and environment; nothing of it appears on the console."""
    done = agent.run(
        ["sh", "-c", 'cat; echo "$HOME $X" >&2; exit 3'], b"input\0", {"X": "1"}, PATIENCE
    )
    assert (done.stdout, done.stderr, done.status) == (b"input\0", b"/root 1\n", Status(3))
    assert agent.run(["no-such-program"], timeout=PATIENCE).status == Status(127)


def test_exec_moves_much_data_at_once(agent: AgentClient, seed: int) -> None:
    """Several commands, each with more than a window of input and output."""

    def is_echoed(number: int) -> bool:
        data = random.Random(seed + number).randbytes(400_000)
        return agent.run(["cat"], data, timeout=PATIENCE).stdout == data

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(is_echoed, range(4)))


def test_slow_reader_does_not_hold_up_the_guest(agent: AgentClient, guest: Inside) -> None:
    """The window stops an endless command, and leaving it kills it."""
    with agent.start(["yes"]) as endless:
        assert isinstance(endless.read(PATIENCE), Output)
        assert guest.shell.run("pgrep -x -c yes") == Answer(0, "1")
        assert agent.run(["true"], timeout=PATIENCE).status == Status()
    assert guest.shell.run(GONE.format("yes")) == Answer(0, "")


def test_signal_in_a_guest(agent: AgentClient) -> None:
    """It ends the command, and the status contains it."""
    with agent.start(["sh", "-c", "echo up; sleep 1000; true"]) as command:
        assert command.read(PATIENCE) == Output(Stream.STDOUT, b"up\n")
        command.signal(15)
        assert command.read(PATIENCE) == Status(signal=15)


def test_agent_comes_back(agent: AgentClient, guest: Inside) -> None:
    """After it ended, or after another program, which is rejected, used its port."""
    command = agent.start(["sleep", "1000"])
    assert guest.shell.run(f"pkill pyvmm-agent; {GONE.format('sleep')}") == Answer(0, "")
    with pytest.raises(AgentError, match="is gone"):
        command.read(PATIENCE)
    with pytest.raises(AgentError, match="no agent"):
        agent.start(["true"])
    assert guest.shell.run("echo what is this >/dev/vport*p0") == Answer(0, "")
    with pytest.raises(AgentError, match="no agent"):
        agent.start(["true"])
    guest.shell.run("pyvmm-agent exec </dev/null >/dev/null 2>&1 &")
    agent.wait_ready(PATIENCE)
    assert agent.run(["true"], timeout=PATIENCE).status == Status()


def compile_program(directory: Path) -> None:
    """Create a directory with a program."""
    (directory / "app").mkdir(parents=True)
    source = directory.parent / "program.c"
    source.write_text(PROGRAM)
    subprocess.run([*COMPILE, str(source), "-o", str(directory / "app/main")], check=True)


def test_root_file_system_of_one_program(debian: Image, tmp_path: Path) -> None:
    """It runs on the console with what programs expect; its status is shown and sent."""
    compile_program(tmp_path / "tree")
    disk = tmp_path / "disk"
    build_rootfs(tmp_path / "tree", disk, EntryPoint("/app/main", ("a b", ""), ("GREETING=hi",)))
    with Inside(options(debian, disk, is_realm=True)) as guest:
        agent = guest.instance.agent
        agent.wait_ready(PATIENCE)
        with pytest.raises(AgentError, match=r"pyvmm\.agent=exec"):
            agent.start(["/app/main"])
        guest.shell.expect(re.compile(rb"GREETING hi"))  # the echo comes after the program's lines
        guest.shell.type("7\n")
        output = guest.shell.read_all()
        assert guest.wait() is ExitCode.OK
        assert agent.ended == Status(7)
    assert "argument a b\r\nargument \r\nGREETING hi, foreground 1, on /dev/ttyS0\r\n" in output
    for place in ("/ ext4", "/proc proc", "/sys sysfs", "/dev/pts devpts", "/run tmpfs"):
        assert f"mount {place} " in output
    assert "pyvmm-init: the program has ended: exit status 7\r\n" in output
    assert is_clean(disk)


def test_program_in_the_initial_ram_disk(debian: Image, tmp_path: Path) -> None:
    """Packed and run as by a user: a realm measures it, and pyvmm returns its status."""
    compile_program(tmp_path / "tree")
    made = tmp_path / "made"
    packed = pyvmm(
        *("image", "build", "rootfs", "--from-dir", tmp_path / "tree", "--init", "/app/main"),
        *("-e", "GREETING=hi", "--initrd", debian.initrd, "-o", made, "--json", "--", "-x"),
    )
    assert (packed.code, packed.errors) == (0, "")
    assert json.loads(packed.output) == {"initrd": str(made)}
    guest = ("-k", debian.kernel, "-i", made, "--agent")
    ended = pyvmm("run", "--realm", *guest, typed="42\n")
    assert (ended.code, ended.errors) == (42, "")
    assert "argument -x\r\nGREETING hi, foreground 1, on /dev/ttyS0\r\n" in ended.output
    end = "last words 299\r\npyvmm-init: the program has ended: exit status 42\r\n"
    assert end in ended.output


def test_kernel_parameters_say_what_the_agent_may(debian: Image, tmp_path: Path) -> None:
    """The host may use exec only if they allow it; a normal VM has no token."""
    compile_program(tmp_path / "tree")
    disk = tmp_path / "disk"
    build_rootfs(tmp_path / "tree", disk, EntryPoint("/app/main"))
    with Inside(options(debian, disk, "pyvmm.agent=exec", is_realm=False)) as guest:
        agent = guest.instance.agent
        agent.wait_ready(PATIENCE)
        done = agent.run(["/app/main", "from outside"], b"5\n", timeout=PATIENCE)
        assert done.status == Status(5)
        assert b"argument from outside\n" in done.stdout
        with pytest.raises(AgentError, match="this guest is not a realm"):
            agent.attest(bytes(64), PATIENCE)
        guest.shell.type("0\n")
        assert guest.wait() is ExitCode.OK


def test_the_life_of_a_realm_from_the_shell(
    debian: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created, measured, started, used, attested and verified, with one command each."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYVMM_HES_DIR", str(tmp_path / "hes"))
    challenge = "5a" * 64
    guest = ("--realm", *guest_options(debian, copy_disk(debian, tmp_path)))
    assert pyvmm("create", "r1", *guest).code == 0
    try:
        assert pyvmm("exec", "r1", "--", "true").errors == "pyvmm: r1 is new: start it first\n"
        assert pyvmm("start", "r1").code == 0
        ended = pyvmm("exec", "r1", "--wait", "180", "--", "tr", "a-z", "A-Z", typed="hello")
        assert (ended.code, ended.output, ended.errors) == (0, "HELLO", "")
        ended = pyvmm("exec", "r1", "-e", "X=4", "--", "sh", "-c", "echo no >&2; exit $X")
        assert (ended.code, ended.output, ended.errors) == (4, "", "no\n")
        ended = pyvmm("exec", "r1", "--json", "--cwd", "/etc", "--", "sh", "-c", "pwd; kill $$")
        answer = {"exit_status": 0, "signal": 15, "stdout": "/etc\n", "stderr": ""}
        assert (ended.code, json.loads(ended.output)) == (128 + 15, answer)
        ended = pyvmm("exec", "r1", "--timeout", "0.5", "--", "sleep", "1000")
        assert ended.code == ExitCode.TIMEOUT
        rim = pyvmm("measure", *guest).output.strip()
        token = pyvmm("attest", "r1", "--challenge", challenge)
        assert (token.code, token.errors) == (0, "")
        checks = ("--challenge", challenge, "--rim", rim)
        verified = pyvmm("verify", "-", *checks, typed=token.output)
        assert verified.code == 0, verified.output
        pyvmm("exec", "r1", "--", "poweroff")
        assert pyvmm("wait", "r1", "--timeout", "60").code == 0
    finally:
        assert pyvmm("destroy", "r1").code == 0
