"""Mutation testing of the translator: change one emitter at a time; the tests must notice.

    python tools/mutate_translator.py [--sample N] [FILE ...]      all of FILES, or some of them

The core is compiled once, with every change in it behind a number: ``(mutant == 7 ? new : old)``.
Each mutant runs the tests in a process forked from one that has loaded everything.  Survivors are
printed with their location; the exit code is 1 if less than 90 % are killed.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "pyvmm" / "core"
WORK = ROOT / "build" / "mutants"
LEAST_KILLED = 0.9
TIMEOUT = 300  # seconds of CPU time; a mutant that hangs counts as killed
FILES = (
    *("emit.c", "host_x86_64.c.inc", "host_x86_64_vector.c.inc", "a64_alu.c.inc"),
    *("a64_branch.c.inc", "a64_ldst.c.inc"),
    *("a64_atomic.c.inc", "a64_pauth.c.inc", "a64_system.c.inc", "a64_fp_scalar.c.inc"),
    *("a64_fp_vector.c.inc", "a64_fp_lanes.c.inc", "simd_same.c.inc", "simd_long.c.inc"),
    *("simd_shift.c.inc", "simd_misc.c.inc", "simd_permute.c.inc", "simd_memory.c.inc"),
)
TESTS = ("test_jit", "test_translation", "test_asm")
SLOWER = ("test_fuzz", "test_pauth", "test_bti")  # for what those do not notice
OPTIONS = ("-x", "--assert=plain", "--tb=no", "-p", "no:cacheprovider", "--engine", "jit")
PRELOADED = ("keystone", "unicorn", "pyvmm.core.machine")
CHOICE = "extern int core_mutant;\n"

#: A part of a function's text, and what it becomes: a wrong operand, condition or shift...
SWAPS: tuple[tuple[str, str], ...] = (
    (r"i->rn\b", "i->rm"),
    (r"i->rm\b", "i->rn"),
    (r"i->ra\b", "i->rn"),
    (r"\bC_NE\b", "C_EQ"),
    (r"\bC_EQ\b", "C_NE"),
    (r"\bC_HS\b", "C_LO"),
    (r"\bSHIFT_LEFT\b", "SHIFT_RIGHT"),
    (r"\bSHIFT_SIGNED\b", "SHIFT_RIGHT"),
    (r"\bV_ZIP_LOW\b", "V_ZIP_HIGH"),
    (r"\bFLAGS_BORROW\b", "FLAGS_CARRY"),
    (r"\bALU_ADD\b", "ALU_SUB"),
    (r"\bV1\b", "V0"),
    (r"(?<!bool )(?<!->)\bis_signed\b", "!is_signed"),
    (r"(?<!bool )(?<!->)\bwrite\b", "!write"),
)
#: ... and statements that are dropped: a check, a flag, a step.
DROPPED = re.compile(
    r"^ +((?:host_jump|clobber_flags|host_fence|check_base|check_fp|unless_guarded|host_v_invert"
    r"|host_v_unless_finite|host_scalar_unless_finite|host_v_if_any|host_unless_bits|need_flags"
    r"|host_save_flags|guest_store_all|guest_load_all|host_store_reg|host_count|zero_extend"
    r")\(.*\);|e->(?:effects|written|flags|sp_checked|fp_checked|count)\b.*;)$"
)
UNCHANGED = ("static", "*", "/*", "#", "case", "_Static", "for")  # starts of lines
FUNCTION = re.compile(r"^(?:static )?(?:\w+ )+\*?((?:emit|host|guest|check|call)_\w+)\(")


@dataclass(frozen=True)
class Mutant:
    """A change of one place of a file."""

    number: int
    where: str
    what: str


def changes(line: str) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Yield what may change in a line, and the line with the change behind a number."""
    if match := DROPPED.match(line):
        statement = match[1]
        yield (
            f"without {statement}",
            lambda n: line.replace(statement, f"if (core_mutant != {n}) {{ {statement} }}"),
        )
    if line.lstrip().startswith(UNCHANGED) or "==" in line:
        return
    for pattern, new in SWAPS:
        for match in re.finditer(pattern, line):
            start, end, old = *match.span(), match[0]
            what = f"{line.strip()}: {old} => {new}"
            yield (
                what,
                lambda n, a=start, b=end, o=old, w=new: (  # type: ignore[misc]
                    f"{line[:a]}(core_mutant == {n} ? {w} : {o}){line[b:]}"
                ),
            )


def mutate(name: str, first: int) -> tuple[str, list[Mutant]]:
    """Return a file with all its mutants: one per line, so that they do not overlap."""
    lines, function = (CORE / name).read_text().splitlines(), ""
    mutants: list[Mutant] = []
    for at, line in enumerate(lines):
        if match := FUNCTION.match(line):
            function = match[1]
        elif line == "}":
            function = ""
        elif function and (found := list(changes(line))):
            what, make = found[at % len(found)]
            number = first + len(mutants)
            mutants.append(Mutant(number, f"{name}:{at + 1} {function}()", what))
            lines[at] = make(number)
    return "\n".join(lines) + "\n", mutants


# --- the core with all mutants --------------------------------------------------------------------


def compile_all(files: list[str]) -> tuple[Path, list[Mutant]]:
    """Compile the core with the mutants of some files; return the library and the mutants."""
    sys.path.insert(0, str(CORE))
    build, generate = (importlib.import_module(name) for name in ("build", "generate"))
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(CORE, WORK, ignore=shutil.ignore_patterns("*.so", "*.py", "_core.c"))
    mutants: list[Mutant] = []
    for name in files:
        text, found = mutate(name, len(mutants) + 1)
        (WORK / name).write_text(text)
        mutants += found
    (WORK / "mutants.h").write_text(CHOICE)
    (WORK / "mutants.c").write_text('__attribute__((visibility("default"))) int core_mutant;\n')
    build.ffi.emit_c_code(str(WORK / "_core.c"))
    options = [*build.OPTIONS, "-O1", "-fPIC", "-w", "-DPy_LIMITED_API=0x03060000", "-include"]
    options += ["mutants.h", f'-DCORE_DIGEST="{generate.digest()}"']
    options += [f"-I{sysconfig.get_paths()['include']}", "-I."]
    compiler = os.environ.get("CC", "cc")

    def compile_one(source: Path) -> str:
        subprocess.run([compiler, *options, "-c", source.name], cwd=WORK, check=True)
        return f"{source.stem}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(WORK.glob("*.c"))))
    library = WORK / "_core.abi3.so"
    subprocess.run([compiler, "-shared", "-o", str(library), *objects], cwd=WORK, check=True)
    return library, mutants


def load(library: Path) -> ctypes.c_int:
    """Load the library in place of the core; return the number of its mutant."""
    spec = importlib.util.spec_from_file_location("pyvmm.core._core", library)
    if spec is None or spec.loader is None:
        raise ImportError(str(library))
    importlib.import_module("pyvmm.core")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in PRELOADED:
        importlib.import_module(name)
    return ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "core_mutant")


# --- runs -----------------------------------------------------------------------------------------


def passes(choice: ctypes.c_int, number: int) -> bool:
    """Return whether all tests pass with a mutant; skip the slower ones if another fails."""
    return run(choice, number, TESTS) and run(choice, number, SLOWER)


def run(choice: ctypes.c_int, number: int, tests: tuple[str, ...]) -> bool:
    """Return whether some tests pass with a mutant, in a separate process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(10 * TIMEOUT)
            resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT, TIMEOUT))
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            choice.value = number
            paths = [f"tests/core/{name}.py" for name in tests]
            code = pytest.main([*OPTIONS, "--seed", "1", *paths])
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Try the mutants of some files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, metavar="N", help="try only N of the mutants")
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(FILES)}")
    arguments = parser.parse_args()
    if not set(arguments.files) <= set(FILES):
        parser.error(f"files are {', '.join(FILES)}")
    os.chdir(ROOT)
    library, mutants = compile_all(arguments.files or list(FILES))
    choice = load(library)
    if not passes(choice, 0):
        say("the tests fail without a mutation")
        return 1
    if arguments.sample:
        mutants = mutants[:: max(1, len(mutants) // arguments.sample)]
    survivors = 0
    for tried, mutant in enumerate(mutants, 1):
        if passes(choice, mutant.number):
            survivors += 1
            say(f"SURVIVED {mutant.where}: {mutant.what}")
        if tried % 10 == 0 or tried == len(mutants):
            say(f"{tried - survivors} of {tried} killed")
    return 0 if survivors <= (1 - LEAST_KILLED) * len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
