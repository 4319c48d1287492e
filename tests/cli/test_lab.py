"""pyvmm lab: its output, its exit code, its template, and mistakes."""

import json
from pathlib import Path

import pytest

from pyvmm.lab.attack import Break
from pyvmm.lab.run import all_attacks
from pyvmm.vm.exit_code import ExitCode
from tests.cli.inside import verb


def test_list_and_show_name_everything() -> None:
    """Each attack and each check; details of one."""
    listed = verb("lab", "list").output
    assert all(f"\n{name} " in f"\n{listed}" for name in [*all_attacks(), *Break])
    shown = verb("lab", "show", "map-twice").output
    assert "RMI_DATA_CREATE_UNKNOWN" in shown
    assert "--break granule-state" in shown
    (row,) = [
        each
        for each in json.loads(verb("lab", "list", "--json").output)
        if each["name"] == "map-twice"
    ]
    assert row == json.loads(verb("lab", "show", "map-twice", "--json").output)


def test_run_reports_steps_proof_and_verdict() -> None:
    """On the whole platform, and without the check."""
    whole = verb("lab", "run", "read-by-dma")
    assert whole.code == ExitCode.OK
    assert "granule protection fault" in whole.output
    assert "proof: no byte of the secret" in whole.output
    assert "verdict: defended" in whole.output
    broken = verb("lab", "run", "read-by-dma", "--break", "gpc", "--json")
    assert broken.code == ExitCode.OK
    (row,) = json.loads(broken.output)
    assert row["verdict"] == "succeeded as expected"
    assert row["leaks"]
    assert row["broken"] == ["gpc"]


def test_new_writes_an_attack_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a template; a second time, the file exists."""
    monkeypatch.chdir(tmp_path)
    assert verb("lab", "new", "my-attack").code == ExitCode.OK
    ran = verb("lab", "run", "./my-attack.py")
    assert ran.code == ExitCode.OK
    assert "my-attack: Read a realm's secret" in ran.output
    assert "exists" in verb("lab", "new", "my-attack").errors


def test_unexpected_end_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that says it is stopped, and is not."""
    monkeypatch.chdir(tmp_path)
    verb("lab", "new", "mine")
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("return data is not None", "return True"))
    ran = verb("lab", "run", str(path))
    assert ran.code == ExitCode.DIFFERENT
    assert "verdict: unexpected" in ran.output


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "0 functions have @attack"),
        ("def f(", "SyntaxError"),
        ("\0", "SyntaxError"),
    ],
)
def test_bad_file_is_one_line(tmp_path: Path, content: str, complaint: str) -> None:
    """With the path and what is wrong."""
    path = tmp_path / "bad.py"
    path.write_text(content)
    failed = verb("lab", "run", str(path))
    assert failed.code == ExitCode.BAD_INPUT
    assert complaint in failed.errors
    assert str(path) in failed.errors
    assert failed.errors.count("\n") == 1


def test_attack_of_a_user_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the steps."""
    monkeypatch.chdir(tmp_path)
    verb("lab", "new", "mine")
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("return data is not None", "return data[99] == 1"))
    failed = verb("lab", "run", str(path))
    assert failed.code == ExitCode.BAD_INPUT
    assert "TypeError" in failed.errors


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run",), "name them, or give --all"),
        (("run", "read-by-pe", "--all"), "name them, or give --all"),
        (("run", "no-such"), "no attack 'no-such'"),
        (("run", "./no-such.py"), "is not a file"),
        (("run", "read-by-pe", "--break", "everything"), "everything"),
        (("show", "no-such"), "no attack"),
        (("new", "../x"), "is not a name"),
        (("new", "class"), "is not a name"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], complaint: str) -> None:
    """One line each, and exit code 2."""
    failed = verb("lab", *arguments)
    assert failed.code == ExitCode.BAD_INPUT
    assert complaint in failed.errors
