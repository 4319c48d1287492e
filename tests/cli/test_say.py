"""Text from guests and peers cannot affect the user's terminal."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from pyvmm import cli
from pyvmm.vm.agent.protocol import Ability, Frame, FrameReader, Reply, Request
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import ExitCode
from tests.arch.test_text import HOSTILE, SEEN, is_safe
from tests.cli.inside import verb
from tests.vm.served import Served


class HostileAgent:
    """A port whose agent answers with control characters for the user's terminal."""

    def __init__(self, served: Served) -> None:
        self.backlog = 0
        self._client = served.owner.lifecycle.agent
        self._reader = FrameReader()
        self._client.attach(self)
        self._client.opened()
        self._say(Reply.HELLO, 0, pack("<HHH", 1, Ability.ATTEST | Ability.EXEC, 4))

    def send(self, data: bytes) -> bool:
        """Answer a request of the host."""
        for request in self._reader.feed(data):
            self._answer(request)
        return True

    def _answer(self, request: Frame) -> None:
        if request.type in {Request.ATTEST, Request.EXEC}:
            self._say(Reply.STDOUT, request.channel, HOSTILE.encode())
            self._say(Reply.STDERR, request.channel, HOSTILE.encode())
            self._say(Reply.EXIT, request.channel, pack("<HH", 1, 0))

    def _say(self, kind: Reply, channel: int, payload: bytes) -> None:
        self._client.received(pack("<IHH", channel, kind, len(payload)) + payload)


@pytest.fixture
def served(runtime: Path) -> Iterator[Served]:
    """Run r1 with such an agent and such a console."""
    made = Served(Directory(runtime))
    made.owner.lifecycle.start()
    HostileAgent(made)
    made.owner.lifecycle.console_log.write(f"login{HOSTILE}".encode())
    yield made
    made.close()


@pytest.mark.usefixtures("served")
def test_an_agent_s_error_is_a_line() -> None:
    """With its control characters escaped."""
    ended = verb("attest", "r1", "--challenge", "00" * 64)
    assert (ended.code, ended.output) == (ExitCode.BAD_INPUT, "")
    line, end = ended.errors[:-1], ended.errors[-1]
    assert end == "\n"
    assert is_safe(line)
    assert line.startswith(r"pyvmm: no token: \x1b]0;t\x07")


@pytest.mark.usefixtures("served")
def test_what_is_quoted_of_a_guest_is_seen() -> None:
    """In JSON, too."""
    ended = verb("exec", "r1", "--no-input", "--json", "--", "true")
    assert all(map(is_safe, ended.output.splitlines()))
    assert ended.errors == ""
    told = json.loads(ended.output)
    assert (told["stdout"], told["stderr"]) == (HOSTILE, HOSTILE)
    ended = verb("wait", "r1", "--json", "--for", r"console:login([\s\S]+)")
    assert all(map(is_safe, ended.output.splitlines()))
    assert json.loads(ended.output)["groups"] == [HOSTILE]


def test_what_lies_about_is_listed_in_a_line_each(runtime: Path) -> None:
    """Files of others in the directory may have any name."""
    Directory(runtime)
    (runtime / f"{HOSTILE}.d").mkdir()
    for arguments in (("list",), ("list", "--json"), ("top", "-n", "1", "-d", "0.05")):
        ended = verb(*arguments)
        assert ended.code == ExitCode.OK
        assert all(map(is_safe, ended.output.split("\n")))
    assert SEEN in verb("list").output


def test_what_the_user_typed_is_a_line() -> None:
    """It may have been copied from an untrusted source."""
    for words in ("start", "run -k", "run -m", ""):
        arguments = (*words.split(), HOSTILE)
        ended = verb(*arguments)
        assert (ended.code, ended.output, ended.errors.count("\n")) == (ExitCode.BAD_INPUT, "", 1)
        assert is_safe(ended.errors[:-1])


def test_nobody_speaks_past_it() -> None:
    """Only `say` writes lines to standard error, except for a few constant texts."""
    allowed = {"say.py", "__init__.py", "attest.py", "console.py", "run.py"}
    for path in Path(cli.__file__).parent.glob("*.py"):
        if path.name not in allowed:
            assert not re.search(r"click\.echo\(.*err=True", path.read_text()), path.name
