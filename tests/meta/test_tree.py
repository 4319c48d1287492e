"""Rules of the tree that no compiler checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HAND_WRITTEN = {
    ".c", ".h", ".inc", ".decode", ".py", ".md", ".toml", ".sh", ".S", ".s", ".ts", ".css", ".html",
    ".json", "",
}  # fmt: skip
#: Directories with what tools make.
GENERATED = re.compile(r"\.(?!ci$).*|build|__pycache__|.*\.egg-info")
#: Addresses of registries and mirrors, home directories, and where this tree happens to stand.
FORBIDDEN = re.compile(
    r"(?:https?|ftp)://[\w.-]*(?:debian|pypi|pythonhosted|npm)|/(?:home|Users)/|"
    + re.escape(f"{ROOT}/")
)


def source_files() -> list[Path]:
    """Return the files that are not generated."""
    files = []
    for directory, directories, names in os.walk(ROOT):
        directories[:] = [name for name in directories if not GENERATED.fullmatch(name)]
        files += [Path(directory, name) for name in names]
    return [path for path in files if path.suffix in HAND_WRITTEN]


def test_import_table_holds() -> None:
    """The untrusted world does not import the trusted one, and each package obeys its row."""
    result = run("lint-imports", "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_host_names_or_machine_paths() -> None:
    """The tree works anywhere: it names no package registry, mirror or home directory."""
    here = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in source_files()
        if path != here
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not found, "\n".join(found)


def test_readme_commands_exist() -> None:
    """Every make target and pyvmm verb that README.md shows can be run."""
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    shown = set(re.findall(r"\bmake ([a-z]+)", text))
    assert shown, "README.md shows no make command"
    assert shown <= targets


def readme_verbs() -> list[str]:
    """Return the verbs of the pyvmm commands in README.md."""
    text = (ROOT / "README.md").read_text()
    return sorted(set(re.findall(r"^ *(?:\$ )?pyvmm ([a-z]+)", text, re.MULTILINE)))


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that is installed beside this Python."""
    path = shutil.which(program, path=str(Path(sys.executable).parent))
    assert path, f"{program} is not installed beside this Python"
    return subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", readme_verbs())
def test_readme_verb_has_help(verb: str) -> None:
    """Every verb that README.md shows answers --help."""
    result = run("pyvmm", verb, "--help")
    assert result.returncode == 0, result.stderr


def test_adrs_are_numbered_without_gaps() -> None:
    """A decision record is never removed, only superseded."""
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs/adr").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
