"""The scripts in `examples/`, run as a reader runs them."""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from tests.boot.command import PYVMM, Ended, call, pyvmm
from tests.boot.shell import PATIENCE

pytestmark = pytest.mark.boot

EXAMPLES = Path(__file__).parents[2] / "examples"
VERIFIED = "verified (profile g1)"


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a script its own directories; check that it leaves no instance and no file."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("PYVMM_BIN", str(Path(PYVMM).parent))
    monkeypatch.setenv("PYVMM_HES_DIR", str(tmp_path / "hes"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(scratch))
    yield tmp_path / "pyvmm"
    files = (path.name for path in (tmp_path / "pyvmm").rglob("*") if not path.is_dir())
    left = {*files} - {".lock"}
    pyvmm("destroy", *{name.rpartition(".")[0] for name in left})
    assert not left
    assert not list(scratch.iterdir())


def demo(name: str, *arguments: str | Path, patience: float = 2 * PATIENCE) -> Ended:
    """Run an example to its end."""
    return call(EXAMPLES / name / "demo.sh", *arguments, patience=patience)


def test_confidential_container(debian: Image) -> None:
    """A packed program gets its input only after its realm is verified."""
    ended = demo("confidential-container", debian.directory.resolve())
    assert ended.code == 0, ended.output + ended.errors
    lines = ended.output.splitlines()
    assert VERIFIED in lines
    assert "passed   realm values" in lines
    assert lines[-2:] == ["adder: the sum is 42", "exit status 0"]


def test_ci_job(debian: Image, tmp_path: Path) -> None:
    """Log, results and evidence are collected; the job returns the status of its checks."""
    results = tmp_path / "results"
    project = tmp_path / "project"
    project.mkdir()
    check = (EXAMPLES / "ci-job/project/check").read_text()
    (project / "check").write_text(f"{check}exit 3\n")
    (project / "check").chmod(0o755)
    ended = demo("ci-job", project, results, debian.directory)
    assert ended.code == 3, ended.output + ended.errors
    assert VERIFIED in ended.output.splitlines()
    assert (results / "log").read_text().count("passed: ") == 2
    assert (results / "machine").read_text() == "Linux aarch64\n"
    evidence = (results / "token", "--reference", results / "reference.json")
    assert pyvmm("verify", *evidence).code == 0


def test_refused_ci_job(debian: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A realm that is not the expected one gets no data; the evidence is kept."""
    other = tmp_path / "bin/pyvmm"
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\n[ "$1" != endorse ] || set -- "$@" -c 2\nexec {PYVMM} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("PYVMM_BIN", str(other.parent))
    results = tmp_path / "results"
    ended = demo("ci-job", EXAMPLES / "ci-job/project", results, debian.directory)
    assert ended.code == 4, ended.output + ended.errors
    assert "failed   realm values" in (results / "report").read_text()
    assert {path.name for path in results.iterdir()} == {"reference.json", "token", "report"}


@pytest.mark.parametrize("size", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_realm_pool(debian: Image, size: int) -> None:
    """Each is verified, all run at once, and their shares make up the whole work."""
    ended = demo("realm-pool", str(size), debian.directory, patience=size * PATIENCE)
    assert ended.code == 0, ended.output + ended.errors
    verified = re.findall(r"^pool-\d+-(\d+) is verified$", ended.output, re.MULTILINE)
    assert sorted(map(int, verified)) == list(range(1, size + 1))
    numbers = range(1, 100 * size + 1)
    lines = ended.output.splitlines()
    assert lines[-3:] == [
        f"{size} are running",
        "== work",
        f"the sum of 1 to {len(numbers)} is {sum(numbers)}",
    ]


def test_interrupted_realm_pool(debian: Image) -> None:
    """Realms that were booting when a signal came are destroyed, too."""
    script = EXAMPLES / "realm-pool/demo.sh"
    with subprocess.Popen([script, "2", debian.directory], stdout=subprocess.PIPE) as process:
        while pyvmm("list").output.count("running") < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_split(debian: Image) -> None:
    """A user of the web service gets what only the realm can compute."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    ended = demo("split", debian.directory, str(port))
    assert ended.code == 0, ended.output + ended.errors
    assert ended.output.splitlines()[-1] == "the score is 9"
    assert "released" in ended.errors


def test_rolling_restart(debian: Image) -> None:
    """All replicas run at all times; a manipulated release replaces none."""
    ended = demo("rolling-restart", "2", debian.directory, patience=5 * PATIENCE)
    assert ended.code == ExitCode.OK, ended.output + ended.errors
    assert [line for line in ended.output.splitlines() if not line.startswith("==")] == [
        "2 are running",
        "replica 1 is at v2; 2 are running",
        "replica 2 is at v2; 2 are running",
        "replica 1 stays at v2: its successor is not v3",
        "no replica was replaced; 2 are running",
    ]
