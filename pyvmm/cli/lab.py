"""pyvmm lab: attack realms, and see what stops the attacks."""

import re
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path
from typing import Final

import click
import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.rmi_revisions import REVISIONS
from pyvmm.arch.text import printable
from pyvmm.cli.common.instances import print_json
from pyvmm.cli.common.say import print_lines
from pyvmm.lab.attack import BREAK_MEANINGS, Attack, Break
from pyvmm.lab.check import all_exercises, find_exercise
from pyvmm.lab.check import check as check_solution
from pyvmm.lab.exercise import Case
from pyvmm.lab.run import Outcome, Verdict, all_attacks, find
from pyvmm.lab.run import lab as open_lab
from pyvmm.lab.template import TEMPLATE
from pyvmm.vm.exit_code import ExitCode

_HELP = """Attack realms as a hostile host, and see what stops the attacks.

An attack is a small Python file. Each runs on a machine of its own, with the real firmware; the
simulator then looks into all worlds and proves what leaked or changed.

The lab also checks the exercises of the course in docs/course.
"""
_RUN_HELP = """Run attacks by name, or from a file that ends in .py.

--break switches a check off: the platform is then another one, and its attestation says so. May be
given several times.

Exit code: 0 every attack ended as expected, 1 one did not.
"""
_CHECK_HELP = """Check a solution of an exercise of the course.

FILE is your solution; by default EXERCISE.py, which `begin` writes.

Exit code: 0 all cases are right, 1 one is not.
"""
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_RESULT_COLUMN: Final = 54


class Row(msgspec.Struct):
    """An attack, as `list --json` and `show --json` print it."""

    name: str
    wants: str
    text: str
    stopped_by: str
    spec: str
    breaks: list[str]
    succeeds: bool


class StepRow(msgspec.Struct):
    """A step, as `run --json` prints it."""

    what: str
    result: str
    is_refused: bool


class OutcomeRow(msgspec.Struct):
    """The result of an attack, as `run --json` prints it."""

    attack: str
    broken: list[str]
    steps: list[StepRow]
    stopped_by: str
    spec: str
    leaks: list[str]
    changes: list[str]
    proof: str
    succeeded: bool
    verdict: Verdict


class ExerciseRow(msgspec.Struct):
    """An exercise, as `exercises --json` prints it."""

    lesson: int
    name: str
    summary: str
    task: str


class CaseRow(msgspec.Struct):
    """A case, as `check --json` prints it."""

    what: str
    expected: str
    found: str
    is_right: bool


@click.group(help=_HELP)
def lab() -> None:
    """Group the commands."""


@lab.command("list", help="List the attacks, and the checks that --break switches off.")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def list_(*, wants_json: bool) -> None:
    """List all."""
    attacks = all_attacks().values()
    if wants_json:
        print_json([_row(each) for each in attacks])
        return
    print_lines(*(f"{each.name:<26} {each.wants}" for each in attacks))
    print_lines("", "--break switches off:")
    print_lines(*(f"{each:<26} {meaning}" for each, meaning in BREAK_MEANINGS.items()))


@lab.command("show", help="Describe an attack.")
@click.argument("attack")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def show(attack: str, *, wants_json: bool) -> None:
    """Describe one."""
    found = find(attack)
    if wants_json:
        print_json(_row(found))
    else:
        print_lines(*_description(found))


def _row(attack: Attack) -> Row:
    breaks = [str(each) for each in attack.breaks]
    return Row(
        attack.name,
        attack.wants,
        attack.text,
        attack.stopped_by,
        attack.spec,
        breaks,
        attack.succeeds,
    )


def _description(attack: Attack) -> Iterator[str]:
    yield f"{attack.name}: {attack.wants}"
    yield from (f"  {line}".rstrip() for line in attack.text.splitlines())
    yield f"  stopped by  {attack.stopped_by}"
    yield f"  spec        {attack.spec}"
    if attack.succeeds:
        yield "  it succeeds: CCA does not promise against it"
    else:
        names = " or ".join(f"--break {each}" for each in attack.breaks)
        yield f"  broken by   {names or 'none of the checks of --break'}"


@lab.command("run", help=_RUN_HELP)
@click.argument("attacks", metavar="[ATTACK]...", nargs=-1)
@click.option("--all", "wants_all", is_flag=True, help="run all attacks of the lab")
@click.option(
    "--break",
    "broken",
    multiple=True,
    type=click.Choice([str(each) for each in Break]),
    help="switch a check off",
)
@click.option(
    "--rmi",
    type=click.Choice(list(REVISIONS)),
    default="1.0",
    show_default=True,
    help="revision of the Realm Management Interface that the host uses",
)
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def run(
    attacks: tuple[str, ...],
    *,
    wants_all: bool,
    broken: tuple[str, ...],
    rmi: str,
    wants_json: bool,
) -> int:
    """Run and report."""
    if wants_all == bool(attacks):
        raise UserError("which attacks? name them, or give --all; `pyvmm lab list` shows them")
    chosen = list(all_attacks().values()) if wants_all else [find(name) for name in attacks]
    breaks = tuple(dict.fromkeys(Break(each) for each in broken))
    outcomes = []
    with open_lab(REVISIONS[rmi]) as opened:
        for attack in chosen:
            outcomes.append(opened.run(attack, breaks))
            if not wants_json:
                print_lines(*_report(outcomes[-1]))
    if wants_json:
        print_json([_outcome_row(each) for each in outcomes])
    elif len(outcomes) > 1:
        print_lines(_summary(outcomes))
    is_expected = all(each.verdict is not Verdict.UNEXPECTED for each in outcomes)
    return ExitCode.OK if is_expected else ExitCode.DIFFERENT


def _report(outcome: Outcome) -> Iterator[str]:
    attack = outcome.attack
    without = f" (without {' and '.join(outcome.broken)})" if outcome.broken else ""
    yield f"{attack.name}{without}: {attack.wants}"
    for step in outcome.steps:
        yield f"  {step.what:<{_RESULT_COLUMN}} {step.result}"
    yield f"  {'nothing stopped it' if outcome.succeeded else 'stopped by'}: {_reason(outcome)}"
    yield f"  specification: {attack.spec}"
    yield f"  proof: {outcome.proof}"
    yield f"  verdict: {outcome.verdict}"
    yield ""


def _reason(outcome: Outcome) -> str:
    attack = outcome.attack
    if not outcome.succeeded or attack.succeeds:
        return attack.stopped_by.removeprefix("nothing: ")
    missing = [each for each in outcome.broken if each in attack.breaks]
    return f"{' and '.join(missing)} is off" if missing else "the attack reached its aim"


def _summary(outcomes: list[Outcome]) -> str:
    counts = [
        f"{sum(each.verdict is verdict for each in outcomes)} {verdict}" for verdict in Verdict
    ]
    return f"{len(outcomes)} attacks: {', '.join(counts)}"


def _outcome_row(outcome: Outcome) -> OutcomeRow:
    return OutcomeRow(
        attack=outcome.attack.name,
        broken=[str(each) for each in outcome.broken],
        steps=[StepRow(each.what, each.result, each.is_refused) for each in outcome.steps],
        stopped_by=outcome.attack.stopped_by,
        spec=outcome.attack.spec,
        leaks=list(outcome.proof.leaks),
        changes=list(outcome.proof.changes),
        proof=str(outcome.proof),
        succeeded=outcome.succeeded,
        verdict=outcome.verdict,
    )


@lab.command("new", help="Write NAME.py: an attack with comments, to start from.")
@click.argument("name")
def new(name: str) -> None:
    """Write the template."""
    if not _NAME.fullmatch(name) or iskeyword(name):
        raise UserError(f"{name!r} is not a name: use a-z, 0-9 and -, such as my-attack")
    path = Path(f"{name}.py")
    _write_new(path, TEMPLATE.format(name=name.replace("-", "_"), file=path))
    print_lines(f"{path}: run it with `pyvmm lab run ./{path}`")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists: choose another name") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: choose another directory") from None


@lab.command("exercises", help="List the exercises of the course.")
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def exercises(*, wants_json: bool) -> None:
    """List all."""
    found = all_exercises().values()
    if wants_json:
        print_json([ExerciseRow(e.lesson, e.name, e.summary, e.task) for e in found])
        return
    print_lines(*(f"{each.lesson:>2}  {each.name:<16} {each.summary}" for each in found))


@lab.command("begin", help="Write EXERCISE.py: the task, and a file to start from.")
@click.argument("exercise")
def begin(exercise: str) -> None:
    """Write the template."""
    found = find_exercise(exercise)
    path = Path(f"{found.name}.py")
    _write_new(path, f'"""{found.task}\n"""\n{found.template}')
    print_lines(f"{path}: check it with `pyvmm lab check {found.name}`")


@lab.command("check", help=_CHECK_HELP)
@click.argument("exercise")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "wants_json", is_flag=True, help="print JSON")
def check(exercise: str, file: Path | None, *, wants_json: bool) -> int:
    """Check a solution."""
    found = find_exercise(exercise)
    cases = check_solution(found, file or Path(f"{found.name}.py"))
    num_right = sum(case.is_right for case in cases)
    if wants_json:
        print_json([CaseRow(*case, case.is_right) for case in cases])
    else:
        print_lines(*(line for case in cases for line in _case_lines(case)))
        print_lines(f"{found.name}: {num_right} of {len(cases)} cases are right")
    return ExitCode.OK if num_right == len(cases) else ExitCode.DIFFERENT


def _case_lines(case: Case) -> Iterator[str]:
    yield f"{'right' if case.is_right else 'WRONG'}  {case.what}"
    if not case.is_right:
        yield f"       expected  {printable(case.expected)}"
        yield f"       found     {printable(case.found)}"
