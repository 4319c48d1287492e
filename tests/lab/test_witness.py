"""The witness sees what leaks and changes: without that, its proof would prove nothing."""

import pytest

from pyvmm.arch.rmi import RmiFid
from pyvmm.lab import Host, Realm, Request, attack, code
from pyvmm.lab.attack import Steps
from pyvmm.lab.run import Outcome, lab


def run(steps: Steps) -> Outcome:
    """Run steps on the whole platform."""
    made = attack(stopped_by="nothing", spec="none")(steps)
    with lab() as opened:
        return opened.run(made)


def test_nothing_happens() -> None:
    """A realm that runs undisturbed."""

    def undisturbed(host: Host) -> bool:
        realm = Realm.victim(host)
        return realm.ask(Request.CHECK) != 1

    outcome = run(undisturbed)
    assert outcome.proof.is_clean
    assert "no byte" in str(outcome.proof)


def test_attack_without_a_secret_proves_nothing() -> None:
    """And says so."""

    def nothing(host: Host) -> bool:
        host.note("do nothing")
        return False

    outcome = run(nothing)
    assert str(outcome.proof) == "no realm got as far as having a secret"


def test_refusal_ends_an_attack() -> None:
    """An attack need not handle it."""

    def refused(host: Host) -> bool:
        Realm.create(host, vmid=1)
        Realm.create(host, vmid=1)
        return True

    outcome = run(refused)
    assert not outcome.succeeded
    assert outcome.steps[-1].is_refused


@pytest.mark.parametrize("mask", [7, 0xFF])
def test_wrong_claim_is_no_success(mask: int) -> None:
    """Knowing a secret means to say the right value."""

    def claims(host: Host) -> bool:
        realm = Realm.victim(host)
        right = realm.count_accesses(Request.TALK)
        host.claim(right ^ 1 if mask == 7 else 1 << 8, mask)
        return True

    assert not run(claims).succeeded


def test_realm_that_stops_ends_an_attack() -> None:
    """Its page is gone."""

    def stops(host: Host) -> bool:
        realm = Realm.victim(host)
        host.rmi(RmiFid.RMI_DATA_DESTROY, realm.rd, code.SECRET)
        return realm.ask(Request.CHECK) != 1

    outcome = run(stops)
    assert "exit SYNC" in outcome.steps[-1].result
