"""Lesson 9: an attack."""

from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Final

from pyvmm.lab.attack import Attack, Break
from pyvmm.lab.exercise import Case, case, exercise
from pyvmm.lab.run import Lab, Verdict, attack_in, lab

TEMPLATE: Final = '''
from pyvmm.lab import Break, Host, Realm, Request, attack


@attack(stopped_by="what does?", spec="where does it say so?", breaks=(Break.SCRUB,))
def read_what_is_left(host: Host) -> bool:
    """Read what a realm leaves behind in a granule that it no longer has."""
    realm = Realm.victim(host)
    host.note("the realm waits", f"its page is {realm.secret:#x}")
    return False
'''


@exercise(9, TEMPLATE)
def break_in(module: ModuleType) -> Iterator[Case]:
    """Write an attack that a check of the RMM stops, and that succeeds without the check.

    Define one function with @attack, as `pyvmm lab new NAME` explains; `breaks` names the checks
    whose absence lets it succeed.  It must be stopped on the whole platform, where the observer
    finds no leak and no change; and reach its aim with each of its `breaks` switched off.
    """
    attack = attack_in(module, str(module.__file__))
    yield case("it names a check", True, lambda: bool(attack.breaks))
    yield case("it succeeds only without the check", False, lambda: attack.succeeds)
    with lab() as opened:
        yield case("the whole platform", str(Verdict.DEFENDED), partial(_verdict, opened, attack))
        for missing in attack.breaks:
            yield case(
                f"without {missing}",
                str(Verdict.SUCCEEDED),
                partial(_verdict, opened, attack, missing),
            )


def _verdict(opened: Lab, attack: Attack, *broken: Break) -> str:
    return str(opened.run(attack, broken).verdict)
