"""The command tables against the function identifiers of the specification."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyvmm.arch.islet import IsletRmiFid, IsletRsiFid
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.arch.rsi import RsiFid
from rmm.rmi import DEBUG_RMI, ISLET_RMI, RMI_1_0
from rmm.rsi import ISLET_RSI, RSI_1_0

#: Name of each command to the function's name and its docstring.
COMMANDS = {
    command.name: (command.function.__name__, command.doc)
    for command in (RMI_1_0 | ISLET_RMI | DEBUG_RMI).values()
} | {
    command.name: (command.function.__name__, command.doc)
    for command in {**RSI_1_0, **ISLET_RSI}.values()
}


def test_every_function_identifier_has_its_command() -> None:
    """RMI 1.0 and RSI 1.0 are complete, and there are no other commands."""
    assert set(RMI_1_0) == {int(fid) for fid in RmiFid}
    assert set(RSI_1_0) == {int(fid) for fid in RsiFid}
    assert set(ISLET_RMI) == {int(fid) for fid in IsletRmiFid}
    assert set(DEBUG_RMI) == {int(fid) for fid in DebugRmiFid}
    assert set(ISLET_RSI) == {int(fid) for fid in IsletRsiFid}


def test_functions_are_named_as_the_specification_names_them() -> None:
    """RMI_RTT_CREATE is rtt_create, so that readers of the specification find it."""
    names = {name: function for name, (function, _) in COMMANDS.items()}
    assert names == {name: name.partition("_")[2].lower() for name in names}


def specification(name: str) -> str:
    """Return the document that specifies a command."""
    vendors = {"ISLET": "Islet", "PYVMM": "docs/debugging.md"}
    return vendors.get(name.split("_")[1], "DEN0137 1.0")


def test_every_command_cites_its_specification() -> None:
    """The docstring of a command names the document and the command in it."""
    silent = [
        name
        for name, (_, doc) in COMMANDS.items()
        if f"Spec: {specification(name)}, {name}" not in doc
    ]
    assert not silent


def test_the_page_of_the_interfaces_is_fresh() -> None:
    """docs/rmm-abi.md is up to date with the tables."""
    root = Path(__file__).parents[2]
    check = [sys.executable, "tools/rmm_abi.py", "--check"]
    result = subprocess.run(check, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
