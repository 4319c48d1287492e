"""Options from a file: what it may contain, what overrides it, and how mistakes are reported."""

import json
import tomllib
from pathlib import Path

import click
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cli.common.configuration import named_options
from pyvmm.cli.create import create
from pyvmm.cli.run import run
from tests.cli.inside import verb

CONFIG = """
kernel = "Image"
disk = ["a.img", "/abs/b.img,ro"]
mem = "64M"
cpus = 2
cpu-features = "-bti"
realm = true
agent = false
timeout = 2.5
"""


def show(*arguments: str) -> dict[str, object]:
    """Return the effective configuration."""
    ended = verb("config", "show", *arguments)
    assert (ended.code, ended.errors) == (0, "")
    return tomllib.loads(ended.output)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a configuration."""
    made = tmp_path / "guest.toml"
    made.write_text(CONFIG)
    return made


def test_file_says_what_the_command_line_does_not(path: Path) -> None:
    """Paths are relative to the configuration; a given option overrides it, even a list."""
    shown = show("--config", str(path), "-m", "128M")
    assert shown["kernel"] == str(path.parent / "Image")
    assert shown["disk"] == [str(path.parent / "a.img"), "/abs/b.img,ro"]
    assert (shown["mem"], shown["cpus"], shown["timeout"]) == ("128M", "2", 2.5)
    assert (shown["realm"], shown["agent"], shown["rng"]) == (True, False, False)
    assert shown["cpu-features"] == "-bti"
    assert show("-d", "c.img", "--config", str(path))["disk"] == ["c.img"]
    assert show("--set", "-p", "quiet") == {"params": "quiet"}
    assert show("--set", "Image") == {"kernel": "Image"}


def test_programs_get_the_same_as_json(path: Path) -> None:
    """The JSON has the same values as the TOML."""
    for more in ((), ("--set",)):
        ended = verb("config", "show", "--config", str(path), "--json", *more)
        assert (ended.code, ended.errors) == (0, "")
        assert json.loads(ended.output) == show("--config", str(path), *more)


def test_what_only_looks_at_a_guest_takes_its_configuration(tmp_path: Path) -> None:
    """Verbs that run no guest ignore the options for running one."""
    path = tmp_path / "guest.toml"
    path.write_text('mem = "64M"\nrealm = true\n')
    rim = verb("measure", "--config", str(path)).output
    life = 'timeout = 1\ntrace = "rmi"\ngdb = "1234"\ngdb-wait = true\nvmlinux = "v"\n'
    path.write_text(path.read_text() + life)
    ended = verb("measure", "--config", str(path))
    assert (ended.code, ended.output, ended.errors) == (0, rim, "")


def test_run_takes_it(path: Path) -> None:
    """So do create and measure, which have the same options."""
    ended = verb("run", "--config", str(path))
    assert ended.code == 2
    assert str(path.parent / "a.img") in ended.errors
    for command in (run, create):
        assert isinstance(command, click.Command)
        assert {"kernel", "disk", "mem", "realm", "timeout", "trace"} <= set(named_options(command))


def test_what_is_shown_shows_the_same(path: Path, tmp_path: Path) -> None:
    """The output is a valid configuration, in any directory."""
    shown = verb("config", "show", "--config", str(path)).output
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "other.toml"
    again.write_text(shown)
    assert verb("config", "show", "--config", str(again)).output == shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("men = '64M'", "unknown option men: did you mean mem?"),
        ("flying = true", "unknown option flying: the options are kernel, "),
        ("config = 'x'", "unknown option config"),
        ("disks = ['x']", "did you mean disk?"),
        ("realm = 'yes'", "realm = 'yes': give true or false"),
        ("mem = true", "mem = True: give a string"),
        ("mem = ['64M']", "give a string"),
        ("disk = [1, true]", "give a list of strings"),
        ("mem = 1979-05-27", "give a string"),
        ("[realm]\nx = 1", "give true or false"),
        ("mem =", "not TOML"),
        ("mem = " + "[" * 30_000, "not TOML: nested too deep"),
        ("mem = " + "{a=" * 20_000, "not TOML: nested too deep"),
        ("#" * 70_000, "is larger than 65536 bytes"),
        ("mem = " + "1" * 5000, "not TOML: Exceeds the limit"),
        ('kernel = "a\\u0000b"', "kernel = 'a\\x00b': remove the NUL character"),
        ('disk = ["a\\u0000b"]', "disk = 'a\\x00b': remove the NUL character"),
        ('params = "a\\u0000b"', "params = 'a\\x00b': remove the NUL character"),
        ("mem = '0'", "-m 0: a guest needs at least 4M"),
        ("console = 'vga'", "'vga' is not one of"),
        ("timeout = -1", "--timeout"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    """It names the file, or the option."""
    path = tmp_path / "guest.toml"
    path.write_text(text)
    ended = verb("run", "--config", str(path))
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1)
    assert complaint in ended.errors


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """Missing, a directory, or not text."""
    (tmp_path / "binary").write_bytes(b"\xff")
    for name in ("none", ".", "binary"):
        ended = verb("run", "--config", str(tmp_path / name))
        assert (ended.code, ended.errors.count("\n")) == (2, 1)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_text_comes_back(text: str) -> None:
    """Kernel parameters may contain characters that TOML must escape."""
    assert tomllib.loads(tomli_w.dumps({"params": text})) == {"params": text}
