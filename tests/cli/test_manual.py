"""The man pages: one per command, without text that roff would interpret."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.cli import VERBS
from pyvmm.cli.common.manual import pages
from pyvmm.vm.exit_code import ExitCode

PAGES = dict(pages())
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"]


def test_every_command_has_a_page() -> None:
    """Verbs and their subcommands."""
    assert {f"pyvmm-{verb}" for verb in VERBS} <= set(PAGES)
    assert {"pyvmm", "pyvmm-image-build-debian", "pyvmm-config-show"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_page_has_its_parts(name: str) -> None:
    """In order; only macros of the man package are used, one per line."""
    lines = PAGES[name].splitlines()
    sections = [line.removeprefix(".SH ") for line in lines if line.startswith(".SH ")]
    wanted = [each for each in SECTIONS if each in sections]
    assert [each for each in sections if each != "COMMANDS"] == wanted
    assert {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"} <= set(sections)
    for line in lines:
        if line.startswith((".", "'")):
            assert re.match(r"\.(TH|SH|PP|TP|BR|B|nf|fi)\b", line), line
    assert not re.search(r"\\(?![-&e])", PAGES[name])


def test_overview_has_all_exit_codes() -> None:
    """The table is that of docs/exit-codes.md."""
    for code in ExitCode:
        assert f"\n.B {int(code)}\n" in PAGES["pyvmm"]


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_has_nothing_to_say(tmp_path: Path) -> None:
    """Not even with all warnings enabled."""
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", tmp_path / name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), name
