"""Options as Python gives them become the command line's."""

from pathlib import Path

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.scripting.options import Value, arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": Path("Image"), "cpus": 2}, ["--kernel", "Image", "--cpus", "2"]),
        ({"kernel": None, "realm": True, "rng": False}, ["--realm"]),
        ({"disk": "a.img"}, ["--disk", "a.img"]),
        ({"disk": ["a.img", Path("b.img")]}, ["--disk", "a.img", "--disk", "b.img"]),
        ({"no_hes": True, "agent": False}, ["--no-hes", "--no-agent"]),
        ({"agent": True, "timeout": 1.5}, ["--agent", "--timeout", "1.5"]),
        ({"params": "quiet loglevel=0"}, ["--params", "quiet loglevel=0"]),
        ({"9p": "/srv,src"}, ["--9p", "/srv,src"]),
    ],
)
def test_options_become_words(options: dict[str, Value], words: list[str]) -> None:
    """In their order; what is None, or a switch that is off, adds nothing."""
    assert arguments(options) == words


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kernell": "Image"}, "unknown option kernell: did you mean kernel?"),
        ({"zzz": 1}, "unknown option zzz: pyvmm run --help lists the options"),
        ({"realm": "yes"}, "realm = 'yes': give True or False"),
        ({"kernel": ["a", "b"]}, r"kernel = \['a', 'b'\]: give one value"),
        ({"cpus": True}, "cpus = True: give one value"),
    ],
)
def test_mistakes(options: dict[str, Value], line: str) -> None:
    """One line, with the value."""
    with pytest.raises(UserError, match=line):
        arguments(options)
