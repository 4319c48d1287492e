"""Mutation testing: change the RMM's code in one place at a time; the tests must fail.

    python tools/mutation.py [FILE ...]      all files in TARGETS, or some of them

Each mutant runs the tests of its file, the fast ones first, in a process forked from one that has
loaded everything but the RMM.  Survivors are printed with their location.  The exit code is 1 if
less than 90 % of a file's mutants are killed, or if EQUIVALENT does not explain a survivor.
"""

import ast
import importlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest
from hypothesis import Phase, stateful
from hypothesis import settings as Settings  # noqa: N812 - a class

ROOT = Path(__file__).parents[1]
LEAST_KILLED = 0.9
TIMEOUT = 30  # seconds of CPU time; a mutant that hangs counts as killed
MEMORY = 8 << 30  # bytes; so does a mutant that exceeds them
#: Modules that are slow to load and do not load the RMM.
PRELOADED = ("keystone", "pyvmm.core", "pyvmm.token.claims")
#: Failures are not shown, because comparing two memories in detail is slow.
OPTIONS = ["-x", "--assert=plain", "--tb=no", "-p", "no:cacheprovider"]

#: Files, and the modules of tests/rmm that should kill their mutants, the fastest first.
TARGETS: dict[str, list[str]] = {
    "rmm/granule.py": ["granule", "boot", "data", "ripas", "rtt"],
    "rmm/rmi/granule.py": ["granule", "boot"],
    "rmm/rmi/data.py": ["data", "measurement", "ripas", "rtt"],
    "rmm/rtt.py": ["data", "ripas", "rsi", "realm", "measurement", "rtt"],
    "rmm/rmi/rtt.py": ["data", "ripas", "measurement", "rtt"],
}
#: Modules that kill many mutants but take seconds.
SLOWER = ["failures", "model"]

#: Mutants that no test can kill, and why.
EQUIVALENT: dict[str, str] = {
    "rmm/granule.py module: 8 => 9": "the number of a state is not visible",
}

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A file with one change."""

    path: str
    line: int
    name: str  #: its key in EQUIVALENT: file, function and change
    code: CodeType

    @property
    def module(self) -> str:
        """The name of its module."""
        return self.path.removesuffix(".py").replace("/", ".")


# --- changes --------------------------------------------------------------------------------------


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the replacements of a node."""
    match node:
        case ast.Compare(left, operators, comparators):
            for n, each in enumerate(operators):
                other = COMPARISONS[type(each)]()
                yield ast.Compare(left, [*operators[:n], other, *operators[n + 1 :]], comparators)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            for n in range(len(values)):
                rest = [*values[:n], *values[n + 1 :]]
                yield ast.BoolOp(operator, rest) if rest[1:] else rest[0]
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.If(ast.Compare() | ast.UnaryOp()) | ast.While(ast.Compare() | ast.UnaryOp()):
            pass  # the changes of the test itself are the same
        case ast.If(test, body, orelse) | ast.While(test, body, orelse):
            yield type(node)(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Raise() | ast.AugAssign() | ast.Break() | ast.Delete():
            yield ast.Pass()
        case _:
            pass


def is_code(node: ast.AST) -> bool:
    """Check whether a node has an effect when a test runs."""
    match node:
        case ast.arguments() | ast.Expr(ast.Constant()) | ast.If(ast.Name("TYPE_CHECKING")):
            return False
        case ast.Assign([ast.Name("__slots__" | "Walk")]):
            return False
        case _:
            return True


def places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int, ast.AST]]:
    """Yield the nodes below with parent, field and index; skip annotations, which are not code."""
    for field, value in ast.iter_fields(node):
        if field not in {"annotation", "returns", "decorator_list"}:
            for index, child in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(child, ast.AST) and is_code(child):
                    yield node, field, index, child
                    yield from places(child)


def put(parent: ast.AST, field: str, index: int, node: ast.AST) -> None:
    """Set a child."""
    value = getattr(parent, field)
    if isinstance(value, list):
        value[index] = node
    else:
        setattr(parent, field, node)


def mutants(path: str) -> Iterator[Mutant]:
    """Yield all changes of a file."""
    tree = ast.parse((ROOT / path).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for parent, field, index, node in list(places(tree)):
        line = getattr(node, "lineno", 0)
        inside = [f.name for f in functions if f.lineno <= line <= (f.end_lineno or 0)]
        for new in replacements(node):
            put(parent, field, index, new)
            code = compile(ast.fix_missing_locations(tree), str(ROOT / path), "exec")
            put(parent, field, index, node)
            before, after = (ast.unparse(each).partition("\n")[0] for each in (node, new))
            name = f"{path} {inside[-1] if inside else 'module'}: {before} => {after}"
            yield Mutant(path, line, name, code)


# --- runs -----------------------------------------------------------------------------------------


def run(tests: list[str], mutant: Mutant | None = None) -> bool:
    """Run tests in a separate process; return whether they pass."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(10 * TIMEOUT)  # for one that hangs without using the CPU
            resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT, TIMEOUT))
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            if mutant is not None:
                install(mutant)
            code = pytest.main([*OPTIONS, *(f"tests/rmm/test_{name}.py" for name in tests)])
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def install(mutant: Mutant) -> None:
    """Make the import of its file return a mutant."""
    get_code = SourceFileLoader.get_code

    def get_mutant(self: SourceFileLoader, fullname: str) -> CodeType | None:
        return mutant.code if fullname == mutant.module else get_code(self, fullname)

    pytest.MonkeyPatch().setattr(SourceFileLoader, "get_code", get_mutant)


def hasten() -> None:
    """Make state machines deterministic, and end at their first failure."""
    run_machine = stateful.run_state_machine_as_test

    def run_once(machine: type[stateful.RuleBasedStateMachine], *, settings: Settings) -> None:
        quick = Settings(settings, phases=(Phase.generate,), database=None, derandomize=True)
        run_machine(machine, settings=quick)

    pytest.MonkeyPatch().setattr(stateful, "run_state_machine_as_test", run_once)


def is_good(path: str) -> bool:
    """Try all mutants of a file; return whether enough are killed and the others explained."""
    if not passes(path):
        say(f"{path}: its tests fail without a mutation")
        return False
    total, survivors = 0, []
    for mutant in mutants(path):
        total += 1
        if passes(path, mutant):
            survivors.append(mutant.name)
            say(f"{mutant.name} (line {mutant.line})")
            say(f"    {EQUIVALENT.get(mutant.name, 'SURVIVED')}")
    killed = total - len(survivors)
    say(f"{path}: {killed} of {total} killed, {killed / total:.0%}")
    return killed / total >= LEAST_KILLED and EQUIVALENT.keys() >= set(survivors)


def passes(path: str, mutant: Mutant | None = None) -> bool:
    """Return whether all tests of a file pass; skip the slower ones if another fails."""
    return run(TARGETS[path], mutant) and run(SLOWER, mutant)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(paths: list[str]) -> int:
    """Try all mutants of some files."""
    if not set(paths) <= TARGETS.keys():
        say(f"usage: mutation.py [FILE ...], of {', '.join(TARGETS)}")
        return 2
    os.chdir(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    if "rmm" in sys.modules:
        say("the RMM is already loaded: the tests would not run the mutants")
        return 1
    hasten()
    results = [is_good(path) for path in paths or TARGETS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
