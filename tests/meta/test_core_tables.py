"""The decode tables, the files generated from them, and their handlers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pyvmm.core.generate import encodings, load_rows
from pyvmm.core.generate_constants import ENUMERATIONS, REGISTERS

CORE = Path(__file__).parents[2] / "pyvmm" / "core"


def core_text() -> str:
    """Return the text of all C files that are not generated."""
    files = [*CORE.glob("*.c"), *CORE.glob("*.inc"), *CORE.glob("*.h")]
    return "\n".join(path.read_text() for path in files if path.name != "_core.c")


def test_generated_files_are_fresh() -> None:
    """The committed files in gen/ are up to date with the tables."""
    check = [sys.executable, "-m", "pyvmm.core.generate", "--check"]
    result = subprocess.run(check, cwd=CORE.parents[1], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_constants_are_generated() -> None:
    """C defines no field of a register and no fault code by hand."""
    prefixes = {*REGISTERS, *(prefix for prefix, _ in ENUMERATIONS.values())}
    declared = re.findall(r"#define (\w+)|\b([A-Z]\w+) = ", core_text())
    names = {define or member for define, member in declared}
    assert not [name for name in names if name.startswith(tuple(f"{p}_" for p in prefixes))]


def test_rows_do_not_overlap() -> None:
    """A word matches one row only, unless a row is marked to precede the other."""
    ordered = encodings(load_rows())
    overlaps = [
        f"{row.name} {other.name}"
        for index, row in enumerate(ordered)
        for other in ordered[index + 1 :]
        if row.overlaps(other) and other.name not in row.flags.get("before", "").split(",")
    ]
    assert not overlaps


def test_rows_that_go_before_are_tried_before() -> None:
    """The generator sorts by mask, so the order of rows must agree with the marks."""
    order = [row.name for row in encodings(load_rows())]
    for row in load_rows():
        for other in filter(None, row.flags.get("before", "").split(",")):
            assert order.index(row.name) < order.index(other), f"{row.name} before={other}"


def test_every_row_has_a_handler() -> None:
    """Each row has exec_NAME, or is an alias of a row that has."""
    defined = set(re.findall(r"\bexec_(\w+)", core_text()))
    missing = [
        row.name for row in load_rows() if "alias" not in row.flags and row.name not in defined
    ]
    assert not missing


def test_every_decode_function_is_used_and_defined() -> None:
    """Each decode= names a function, and each decode function is named."""
    named = {row.flags["decode"] for row in load_rows() if "decode" in row.flags}
    text = core_text()
    assert named <= set(re.findall(r"\bdecode_(\w+)", text))
