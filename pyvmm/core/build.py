"""Build the core as a cffi API-mode extension, ``pyvmm.core._core``."""

import importlib
import sys
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# The package cannot be imported while it is being built.
generate = importlib.import_module("generate")

BEGIN, END = "/* cdef: begin */", "/* cdef: end */"
OPTIONS = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-ffp-contract=off",  # a product and a sum of the guest's are rounded twice
    "-fno-math-errno",  # a square root is an instruction
    "-fvisibility=hidden",  # calls between files need no indirection
]
if sysconfig.get_platform().endswith("x86_64"):
    OPTIONS.append("-mcx16")  # compare and exchange 16 bytes


def declarations() -> str:
    """Return the text of api.h between its markers."""
    return (HERE / "api.h").read_text().partition(BEGIN)[2].partition(END)[0]


def sources() -> list[str]:
    """Return the C files, relative to the project, for setuptools."""
    return sorted(f"pyvmm/core/{path.name}" for path in HERE.glob("*.c") if path.name != "_core.c")


ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "pyvmm.core._core",
    '#include "api.h"',
    sources=sources(),
    include_dirs=["pyvmm/core"],
    define_macros=[("CORE_DIGEST", f'"{generate.digest()}"')],
    extra_compile_args=[*OPTIONS, "-fno-gcse"],
    depends=[
        str(path) for path in (*HERE.glob("*.h"), *HERE.glob("*.inc"), *(HERE / "gen").glob("*.h"))
    ],
)

if __name__ == "__main__":
    ffi.compile(tmpdir=str(HERE.parent.parent), verbose=True)
