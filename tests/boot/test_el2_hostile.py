"""A hostile program at EL2 against the Monitor, the RMM and a running realm."""

from pathlib import Path

import pytest

from tests.boot.bare_program import compile_host, compile_realm
from tests.boot.command import pyvmm

STEPS = 50_000  # of each of two PEs
MIN_ENTRIES = 1000  # fewer: the realm did not run while it was attacked


def attack(directory: Path, seed: int) -> None:
    """Run the program once; it looks for secrets itself, in results and in all its memory."""
    compile_realm(directory, "victim.c")
    sources = ("hostile.c", "hostile.S", "host.c")
    program = compile_host(directory, *sources, SEED=seed, STEPS=STEPS)
    done = pyvmm("boot", "-k", program, "-c", "2", "-m", "128M")
    assert (done.code, done.errors) == (0, ""), f"seed {seed}: {done}"
    *_, entered, _, last = done.output.splitlines()
    assert last == "no secret found", f"seed {seed}: {done}"
    assert int(entered.removeprefix("entered: "), 16) > MIN_ENTRIES


@pytest.mark.boot
def test_a_hostile_program_sees_no_secret(tmp_path: Path, seed: int) -> None:
    """Random SMCs, registers, invalidations, tables and entries, on two PEs: 10^5 steps."""
    attack(tmp_path, seed)


@pytest.mark.slow
def test_a_hostile_program_sees_no_secret_in_many_boots(tmp_path: Path, seed: int) -> None:
    """The same, 10^7 steps."""
    for each in range(seed + 1, seed + 101):
        attack(tmp_path, each)
