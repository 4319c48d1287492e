"""Every attack of the lab ends as expected, on the whole platform and on each broken one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.arch.rmi_revisions import VERSION_1_0, VERSION_2_0
from pyvmm.lab.attack import Attack, Break
from pyvmm.lab.run import Lab, Verdict, all_attacks, lab
from pyvmm.token.report import Check

ATTACKS = all_attacks()
BROKEN = [(each, name) for each in ATTACKS.values() for name in each.breaks]
PLATFORM = "a fresh token"


@pytest.fixture(scope="module", params=[VERSION_1_0, VERSION_2_0], ids=["rmi-1.0", "rmi-2.0"])
def opened(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Return the lab, with a host of either revision of RMI."""
    with lab(request.param) as opened:
        yield opened


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attack_on_the_whole_platform(opened: Lab, attack: Attack) -> None:
    """It is stopped, and nothing leaks or changes; unless CCA does not promise against it."""
    outcome = opened.run(attack)
    assert outcome.verdict is (Verdict.SUCCEEDED if attack.succeeds else Verdict.DEFENDED)
    assert outcome.proof.is_clean, outcome.proof
    assert outcome.steps


@pytest.mark.parametrize(
    ("attack", "missing"), BROKEN, ids=[f"{each.name}-{name}" for each, name in BROKEN]
)
def test_attack_on_a_broken_platform(opened: Lab, attack: Attack, missing: Break) -> None:
    """It succeeds without the check that stops it."""
    outcome = opened.run(attack, (missing,))
    assert outcome.verdict is Verdict.SUCCEEDED, [*outcome.steps, outcome.proof]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_break_affects_no_other_attack(opened: Lab, attack: Attack) -> None:
    """What an attack does not name does not help it."""
    for missing in set(Break) - set(attack.breaks):
        outcome = opened.run(attack, (missing,))
        assert outcome.verdict is not Verdict.UNEXPECTED, (missing, outcome.proof)


def test_each_check_has_an_attack_that_shows_what_it_is_for() -> None:
    """And at least 24 attacks exist, three of which succeed."""
    assert {name for _, name in BROKEN} == set(Break)
    assert len(ATTACKS) >= 24
    succeeding = {name for name, each in ATTACKS.items() if each.succeeds}
    assert succeeding == {"analyse-traffic", "roll-back-disk", "starve"}


@pytest.mark.parametrize("missing", Break)
def test_a_broken_platform_attests_that_it_is_another_one(opened: Lab, missing: Break) -> None:
    """A fresh token of the right realm is refused because of the firmware, and only that."""
    outcome = opened.run(ATTACKS["replay-token"], (missing,))
    (fresh,) = [step for step in outcome.steps if PLATFORM in step.what]
    assert fresh.is_refused
    assert fresh.result.split(": ")[1] == Check.SW_COMPONENTS
    assert Check.REALM_VALUES not in fresh.result


def test_the_whole_platform_is_believed(opened: Lab) -> None:
    """So the refusals above say something."""
    outcome = opened.run(ATTACKS["replay-token"])
    (fresh,) = [step for step in outcome.steps if PLATFORM in step.what]
    assert fresh.result == "the owner believes it"


def test_documentation_names_each_attack() -> None:
    """In the table of docs/lab.md."""
    text = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()
    assert not [name for name in ATTACKS if f"`{name}`" not in text]
