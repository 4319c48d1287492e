"""Daemons: their reports, their separation from the parent, and the end of their startup."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.cli.instance import until_gone

#: Runs a function ``main(tell)`` in a daemon and prints what it tells.
PROGRAM = """
import os, signal, sys, time
from pyvmm.vm.control.daemon import Message, redirect, spawn
{main}
for message in spawn(main):
    print(message.doing, message.is_ready, message.code, message.line, flush=True)
"""
READY = "tell(Message(is_ready=True))"


def run(*lines: str) -> str:
    """Run a program whose daemon has this main; return its output when all processes are gone."""
    main = "def main(tell):\n" + textwrap.indent("\n".join(lines), "    ")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(main=main)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_it_tells_how_its_beginning_goes() -> None:
    """Messages arrive in order, and none after the end of startup."""
    told = run("tell(Message(doing='a'))", READY, "tell(Message(doing='late'))", "return 0")
    assert told == "a False 0 \n True 0 \n"


@pytest.mark.parametrize(
    "line", ["return 3", "raise ZeroDivisionError", "os._exit(0)", "os.kill(os.getpid(), 9)"]
)
def test_a_death_without_a_word_is_the_end(line: str) -> None:
    """The parent does not wait for a dead daemon, and nothing is printed on the terminal."""
    assert run(line) == ""


def test_it_has_nothing_of_its_parent() -> None:
    """It has its own session and, besides its pipe, only /dev/null open."""
    told = run(
        "import json",
        "sizes = sorted(os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{fd}'))",
        "is_leader = os.getpid() == os.getsid(0)",
        "tell(Message(code=1, line=json.dumps([sizes, is_leader, os.umask(0)])))",
    )
    files, is_leader, umask = json.loads(told.split(maxsplit=2)[2])
    assert files[:3] == ["/dev/null"] * 3
    assert len(files) == 4
    assert files[3].startswith("pipe:")
    assert (is_leader, umask) == (False, 0o077)


def test_a_parent_that_is_gone_cannot_be_told() -> None:
    """The daemon gets an error when it sends a message."""
    program = PROGRAM.format(
        main=textwrap.dedent("""
            def main(tell):
                tell(Message(doing=str(os.getpid())))
                while True:
                    time.sleep(0.01)
                    tell(Message(doing='more'))
        """)
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        parent.kill()
    until_gone(pid)
