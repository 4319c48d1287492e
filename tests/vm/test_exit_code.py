"""The exit codes, and the table of them that readers get."""

import re
import signal
from pathlib import Path

from pyvmm.vm.exit_code import MEANINGS, ExitCode

MANUAL = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def test_manual_has_every_code_and_no_other() -> None:
    """With its meaning, word for word."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", MANUAL.read_text(), re.MULTILINE)
    assert rows == [(str(int(code)), code.name, MEANINGS[code]) for code in ExitCode]


def test_codes_leave_the_shell_its_own() -> None:
    """126, 127 and 128 + N are a command that cannot run, or died by a signal."""
    signals = {128 + signal.SIGINT, 128 + signal.SIGPIPE}
    assert {code for code in ExitCode if code >= 125} == signals
