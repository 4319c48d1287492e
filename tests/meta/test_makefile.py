"""The exit status of make, where it differs from the recipe's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.vm.exit_code import ExitCode
from tests.meta.test_tree import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.QUIT, ExitCode.PANIC, ExitCode.BAD_INPUT])
def test_quitting_the_guest_is_no_error_of_make(tmp_path: Path, code: ExitCode) -> None:
    """Ctrl-A x is a normal end; other failures are reported."""
    fake = tmp_path / "pyvmm"
    fake.write_text(f'#!/bin/sh\n[ "$1" = image ] || exit {code:d}\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "-o", "setup", "run", f"PYVMM={fake}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if code in {ExitCode.OK, ExitCode.QUIT}:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    else:
        assert done.returncode
        assert f"Error {code:d}" in done.stderr
