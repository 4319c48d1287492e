"""`pyvmm run` for its first users."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.boot.command import pyvmm
from tests.cli.instance import at_terminal

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (("--realm", "--no-hes"), ("This was a realm", "pyvmm measure --realm", "--realm debian")),
        ((), ("This was a normal VM", "pyvmm run --realm ", "--realm debian")),
    ],
)
def test_a_terminal_gets_an_explanation(kind: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Three lines after the output of the built-in guest; a program gets none."""
    with at_terminal("run", "-m", "64", *kind) as (shell, process):
        lines = shell.read_all().rstrip().splitlines()[-3:]
        assert process.wait() == ExitCode.OK
    for line, word in zip(lines, words, strict=True):
        assert word in line
    assert pyvmm("run", "-m", "64", *kind).errors == ""


def test_a_package_that_hides_ours_is_named(tmp_path: Path) -> None:
    """RAPIDS has an rmm; one line says so before anything fails for another reason."""
    package = tmp_path / "rmm"
    package.mkdir()
    (package / "__init__.py").write_text("class RMMError(Exception): ...\n")
    archive = tmp_path / "other.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("hes/__init__.py", "")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyvmm.cli import main; main()"
    for place, name in ((tmp_path, "rmm"), (archive, "hes")):
        command = (sys.executable, "-c", code, str(place), "version")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == ExitCode.BAD_INPUT
        assert done.stderr == (
            f"pyvmm: the package {name} in {place / name} hides pyvmm's: install pyvmm in a virtual"
            " environment of its own\n"
        )
