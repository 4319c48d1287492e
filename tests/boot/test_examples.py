"""The scripts in `examples/`, run as a reader runs them."""

from pathlib import Path

import pytest

from pyvmm.vm.image import Image
from tests.boot.command import PYVMM, call
from tests.boot.shell import PATIENCE

pytestmark = pytest.mark.boot

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_confidential_container(debian: Image, tmp_path: Path) -> None:
    """A program from a directory gets its input once its realm has proved what it is."""
    env = {
        "PYVMM_BIN": str(Path(PYVMM).parent),
        "PYVMM_HES_DIR": str(tmp_path / "hes"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    script = EXAMPLES / "confidential-container/demo.sh"
    ended = call(script, debian.directory.resolve(), env=env, patience=2 * PATIENCE)
    assert ended.code == 0, ended.output + ended.errors
    lines = ended.output.splitlines()
    assert "verified (profile g1)" in lines
    assert "passed   realm values" in lines
    assert lines[-2:] == ["adder: the sum is 42", "exit status 0"]
    assert not list((tmp_path / "pyvmm").glob("adder-*"))
