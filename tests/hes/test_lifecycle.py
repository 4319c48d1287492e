"""The lifecycle: every pair of states, what each state allows, and the token's claim."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from hes import lifecycle
from hes.otp import Otp
from hes.provisioning import development_bundles, provision
from pyvmm.arch.psa import DelegatedAttestation, HesService, PsaHandle, PsaStatus
from pyvmm.token.cbor import decode
from pyvmm.token.claims import LifecycleState, PlatformKey
from tests.hes.rig import Rig

ASSEMBLY = LifecycleState.ASSEMBLY_AND_TEST
PROVISIONING = LifecycleState.CCA_PLATFORM_ROT_PROVISIONING
SECURED = LifecycleState.SECURED
DEBUG = LifecycleState.NON_CCA_PLATFORM_ROT_DEBUG
ROT_DEBUG = LifecycleState.RECOVERABLE_CCA_PLATFORM_ROT_DEBUG
END = LifecycleState.DECOMMISSIONED

LEGAL = {
    (SECURED, DEBUG),
    (SECURED, ROT_DEBUG),
    (DEBUG, SECURED),
    (ROT_DEBUG, SECURED),
    *((state, END) for state in (ASSEMBLY, PROVISIONING, SECURED, DEBUG, ROT_DEBUG)),
}
CLAIMS = {SECURED: 0x3000, DEBUG: 0x4000, ROT_DEBUG: 0x5000}


def in_state(directory: Path, state: LifecycleState) -> Rig:
    """Return a HES in a state."""
    rig = Rig(directory)
    otp = Otp()
    for bundle in development_bundles():
        otp = provision(otp, bundle)
    rig.hes.store.update(lambda _: replace(otp, lifecycle=state))
    return rig


@pytest.mark.parametrize(("now", "then"), list(product(LifecycleState, repeat=2)))
def test_only_legal_transitions_are_made(
    tmp_path: Path, now: LifecycleState, then: LifecycleState
) -> None:
    """All others change nothing."""
    rig = in_state(tmp_path, now)
    before = rig.hes.store.load()
    answer = rig.ask(HesService.SET_LIFECYCLE, lifecycle.name(then).encode())
    after = rig.hes.store.load()
    assert after is not None
    if (now, then) in LEGAL:
        assert answer == (PsaStatus.SUCCESS, (lifecycle.name(then).encode(),))
        assert after.lifecycle is then
    else:
        assert answer.status is PsaStatus.NOT_PERMITTED
        assert after == before


@pytest.mark.parametrize("name", [b"", b"SECURED", b"\xff", b"zzz"])
def test_unknown_state_is_refused(tmp_path: Path, name: bytes) -> None:
    """If the name is not a state's."""
    rig = in_state(tmp_path, SECURED)
    assert rig.ask(HesService.SET_LIFECYCLE, name).status is PsaStatus.INVALID_ARGUMENT


@pytest.mark.parametrize("state", list(LifecycleState))
def test_machine_leaves_reset_only_if_the_platform_can_attest(
    tmp_path: Path, state: LifecycleState
) -> None:
    """The token contains the debug states; other states give an error."""
    rig = in_state(tmp_path, state)
    answer = rig.power_on()
    if state in CLAIMS:
        assert answer.status is PsaStatus.SUCCESS
        claims = decode(rig.token().payload)
        assert isinstance(claims, dict)
        assert claims[PlatformKey.LIFECYCLE] == CLAIMS[state]
    else:
        assert answer.status is PsaStatus.BAD_STATE
        assert lifecycle.name(state) in answer.text
        assert rig.attest(DelegatedAttestation.GET_PUBLIC_KEY).status is PsaStatus.BAD_STATE


def test_debug_changes_the_realm_key_and_not_the_platforms(tmp_path: Path) -> None:
    """Verifiers still know the platform; sealing keys and the realm key differ."""
    raks, instances = set(), set()
    for state in (SECURED, DEBUG, ROT_DEBUG):
        directory = tmp_path / state.name
        directory.mkdir()
        rig = in_state(directory, state)
        rig.hes.store.update(lambda otp: replace(otp or Otp(), guk=b"g" * 32, boot_hash=b"b" * 32))
        rig.power_on()
        claims = decode(rig.token().payload)
        assert isinstance(claims, dict)
        raks.add(rig.rak())
        instances.add(claims[PlatformKey.INSTANCE_ID])
    assert (len(raks), len(instances)) == (3, 1)


def test_change_takes_effect_at_the_next_reset(tmp_path: Path) -> None:
    """A machine that is on was measured before the change."""
    rig = in_state(tmp_path, SECURED)
    rig.power_on()
    before = rig.rak()
    rig.ask(HesService.SET_LIFECYCLE, lifecycle.name(DEBUG).encode())
    claims = decode(rig.token().payload)
    assert isinstance(claims, dict)
    assert claims[PlatformKey.LIFECYCLE] == CLAIMS[SECURED]
    rig.reset()
    rig.power_on()
    assert rig.rak() != before


def test_refused_call_changes_nothing(tmp_path: Path) -> None:
    """Even one that allows no output."""
    rig = in_state(tmp_path, SECURED)
    before = rig.hes.store.load()
    for call, inputs in (
        (HesService.SET_LIFECYCLE, (b"decommissioned",)),
        (HesService.ADVANCE_COUNTER, (b"firmware", bytes(3) + b"\1")),
    ):
        answer = rig.call(PsaHandle.HES, call, *inputs, limits=())
        assert answer == (PsaStatus.PROGRAMMER_ERROR, ())
    assert rig.hes.store.load() == before


def test_decommissioning_erases_the_keys(tmp_path: Path) -> None:
    """From the file, too."""
    rig = in_state(tmp_path, SECURED)
    otp = rig.hes.store.load()
    assert otp is not None
    rig.ask(HesService.SET_LIFECYCLE, b"decommissioned")
    after = rig.hes.store.load()
    assert after == replace(otp, lifecycle=END, huk=b"", guk=b"")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert otp.huk not in content
    assert otp.guk not in content
