"""Services: sockets from a service manager, messages as JSON, and the units in examples/systemd."""

import configparser
import json
import os
import shlex
import socket
import subprocess
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path

import click
import pytest

from pyvmm.cli import cli
from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import PYVMM, pyvmm
from tests.boot.shell import PATIENCE
from tests.kbs.realm import make_library

_UNITS = Path(__file__).parents[2] / "examples/systemd"


def activated(
    descriptor: socket.socket, *arguments: str, count: str = "1"
) -> subprocess.Popen[bytes]:
    """Start pyvmm as a service manager does, with one descriptor."""
    line = f'LISTEN_PID=$$ LISTEN_FDS={count} exec "$@" 3<&{descriptor.fileno()}'
    return subprocess.Popen(
        ["bash", "-c", line, "manager", PYVMM, "--log-format", "json", *arguments],
        pass_fds=[descriptor.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_broker_serves_the_socket_of_its_unit(tmp_path: Path) -> None:
    """A connection made before the service runs is answered; its messages are JSON."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=PATIENCE)
        connection.request("GET", "/kbs/v0/resource/a/b/c")
        broker = activated(listener, "kbs", str(make_library(tmp_path)))
    assert connection.getresponse().status == 401
    connection.close()
    broker.terminate()
    output, errors = broker.communicate(timeout=PATIENCE)
    assert output == b""  # it opened no port of its own
    message = json.loads(errors.splitlines()[0])
    assert message["level"] == "info"
    assert message["message"].startswith("/kbs/v0/resource/a/b/c: refused: no such session")
    assert datetime.fromisoformat(message["time"]).utcoffset() is not None


@pytest.mark.parametrize(
    ("listens", "count", "reason"),
    [
        (False, "1", "file descriptor 3 from the service manager is no listening stream socket"),
        (True, "2", "file descriptor 4 from the service manager is no listening stream socket"),
        (True, "-1", "LISTEN_FDS=-1"),
    ],
)
def test_bad_descriptor_is_one_message(
    tmp_path: Path, *, listens: bool, count: str, reason: str
) -> None:
    """It starts nothing."""
    with socket.socket() as descriptor:
        if listens:
            descriptor.listen()
        broker = activated(descriptor, "kbs", str(make_library(tmp_path)), count=count)
    _, errors = broker.communicate(timeout=PATIENCE)
    assert broker.returncode == ExitCode.BAD_INPUT
    message = json.loads(errors)
    assert message["level"] == "error"
    assert message["message"].startswith(reason)


def test_mistakes_are_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable, for a mistake in the command line; what is invisible is escaped."""
    monkeypatch.setenv("PYVMM_LOG_FORMAT", "json")
    ended = pyvmm("start", "a\x1b[31m\u202e\x7f")
    assert ended.errors.isascii()
    assert "a\\x1b[31m\\u202e\\x7f" in json.loads(ended.errors)["message"]
    ended = pyvmm("run", "--nothing")
    assert "--nothing" in json.loads(ended.errors)["message"]


@pytest.mark.parametrize("path", sorted(_UNITS.glob("*.service")), ids=lambda path: path.name)
def test_units_start_what_exists(path: Path, tmp_path: Path) -> None:
    """Their commands have these options; exit codes that they name are ours."""
    (tmp_path / "pyvmm/kbs").mkdir(parents=True)
    (tmp_path / "pyvmm/guest.toml").touch()
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=["="])
    unit.read(path)
    service = unit["Service"]
    for line in filter(None, (service.get("ExecStart"), service.get("ExecStop"))):
        command = line.removeprefix("-").replace("%E", str(tmp_path)).replace("%i", "guest")
        program, verb, *arguments = shlex.split(command)
        assert program == "pyvmm"
        found = cli.get_command(click.Context(cli), verb)
        assert found is not None
        found.make_context(verb, arguments)
    for name in ("SuccessExitStatus", "RestartPreventExitStatus"):
        assert {*map(int, service.get(name, "").split())} <= {*map(int, ExitCode)}
    assert os.access(path, os.R_OK)
