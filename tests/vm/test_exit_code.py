"""The exit codes and their table in the documentation."""

import re
import signal
from pathlib import Path

from pyvmm.token.report import Kind
from pyvmm.vm.exit_code import MEANINGS, ExitCode

MANUAL = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def manual() -> list[tuple[str, str, str, str]]:
    """Return the rows of the table: code, name, meaning, meaning for a token."""
    pattern = r"^\| (\d+) \| `(\w+)` \| ([^|]*) \|([^|]*)\|$"
    return re.findall(pattern, MANUAL.read_text(), re.MULTILINE)


def test_manual_has_every_code_and_no_other() -> None:
    """The meanings are identical."""
    rows = [row[:3] for row in manual()]
    assert rows == [(str(int(code)), code.name, MEANINGS[code]) for code in ExitCode]


def test_manual_has_every_code_of_a_token() -> None:
    """The codes that `pyvmm verify` returns for a token have a second meaning."""
    assert [int(code) for code, _, _, token in manual() if token.strip()] == [*Kind]


def test_codes_leave_the_shell_its_own() -> None:
    """126, 127 and 128 + N are a command that cannot run, or died by a signal."""
    signals = {128 + signal.SIGINT, 128 + signal.SIGPIPE}
    assert {code for code in ExitCode if code >= 125} == signals
