"""The C files of the core: a header for each, and no cycle but the one that README.md explains."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "pyvmm" / "core"
SOURCES = sorted(path.stem for path in CORE.glob("*.c") if path.name != "_core.c")
#: Their functions are declared elsewhere: what Python calls, what the decode tables list.
WITHOUT_HEADER = {"confine", "machine", "record", "simd", "view"}


def text_of(name: str) -> str:
    """Return a C file with the parts that it includes."""
    text = (CORE / name).read_text()
    return text + "".join(map(text_of, re.findall(r'^#include "(.+\.c\.inc)"', text, re.MULTILINE)))


@pytest.mark.parametrize("name", SOURCES)
def test_a_header_declares_what_its_file_defines(name: str) -> None:
    """NAME.h is the first header of NAME.c, and promises nothing that is defined elsewhere."""
    if name in WITHOUT_HEADER:
        assert not (CORE / f"{name}.h").exists()
        return
    text = text_of(f"{name}.c")
    assert re.findall(r"^#include (.+)", text, re.MULTILINE)[0] == f'"{name}.h"'
    prototypes = re.findall(
        r"^(?!static|_Static_assert)\w[\w *]*?(\w+)\([^{};]*\);",
        (CORE / f"{name}.h").read_text(),
        re.MULTILINE,
    )
    missing = [
        f for f in prototypes if not re.search(rf"^\w.*\b{f}\([^;{{]*\) {{", text, re.MULTILINE)
    ]
    assert prototypes
    assert not missing


def dependencies() -> dict[str, set[str]]:
    """Return for each C file those whose headers it includes."""
    found = {}
    for name in SOURCES:
        headers = re.findall(r'^#include "(\w+)\.h"', text_of(f"{name}.c"), re.MULTILINE)
        found[name] = set(headers) & set(SOURCES) - {name}
    return found


def test_calls_go_down() -> None:
    """No file needs one that needs it.

    The exception is not an include: decode's generated table holds functions of interp.
    """
    order = TopologicalSorter(dependencies())
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")
    assert "decode" in dependencies()["interp"]
