"""A minimal host at EL2 makes a realm through RMI, runs it, and takes it apart."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from pyvmm.arch.events import RimExtension
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import DataFlags
from pyvmm.platform import replay
from tests.boot.bare_program import compile_host, compile_realm
from tests.boot.command import pyvmm

RAM, RAM_SIZE = 0x8000_0000, 2 << 20
#: A data abort from the same level: granule protection fault, not on a table walk.
PROTECTED = 0x9600_0028


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the realm's program."""
    path = tmp_path_factory.mktemp("el2")
    compile_realm(path)
    return path


@pytest.fixture(scope="module")
def host(directory: Path) -> Path:
    """Return the minimal host."""
    return compile_host(directory, "minimal.c", "host.c")


def construction(image: bytes) -> Iterator[RimExtension]:
    """Yield the steps that the minimal host performs, as far as they are measured."""

    def step(name: str, **fields: int | bytes | tuple[int, ...]) -> RimExtension:
        return RimExtension(0, name, tuple(fields.items()), b"")

    yield step("REALM_CREATE", s2sz=33, num_bps=1, num_wps=1)
    for base in range(RAM, RAM + RAM_SIZE, GRANULE_SIZE):
        yield step("RIPAS", base=base, top=base + GRANULE_SIZE)
    for offset in range(0, len(image), GRANULE_SIZE):
        page = image[offset : offset + GRANULE_SIZE].ljust(GRANULE_SIZE, b"\0")
        digest = sha256(page).digest()
        yield step("DATA", ipa=RAM + offset, flags=DataFlags.MEASURE_CONTENT, content=digest)
    yield step("REC", flags=1, pc=RAM, gprs=(0,) * 8)


@pytest.mark.boot
@pytest.mark.parametrize("num_cpus", [1, 2])
def test_a_minimal_host_runs_a_realm(directory: Path, host: Path, num_cpus: int) -> None:
    """Its measurement as predicted; its memory out of reach, and then zeros; two RECs; timers."""
    rim = replay(construction((directory / "realm.bin").read_bytes()))[-1].rim
    second = ["realm: the second REC runs", "realm: both RECs have run"]
    done = pyvmm("boot", "-k", host, "-c", str(num_cpus))
    assert (done.code, done.errors) == (0, "")
    assert done.output.splitlines() == [
        "RMI: 10000",
        "host: the realm is active",
        "realm: hello",
        f"RIM: {rim.hex()}",
        "realm: the platform has signed a token",
        "host: the realm shares memory",
        "realm: this page is shared",
        f"host: reading private memory, ESR_EL2: {PROTECTED:x}",
        "host: physical timer",
        "host: interrupt: 1a",
        "host: virtual timer",
        "host: interrupt: 1c",
        "host: masked by ICC_PMR",
        "host: disabled in the redistributor",
        "host: group disabled in the interface",
        *(second if num_cpus > 1 else ["realm: the host denied the second REC"]),
        "host: the realm is off",
        "host: all memory is back, as zeros",
    ]


@pytest.mark.boot
def test_without_a_root_of_trust_the_realm_cannot_attest(host: Path) -> None:
    """It runs all the same."""
    done = pyvmm("boot", "-k", host, "--no-hes")
    assert (done.code, done.errors) == (0, "")
    assert "realm: no token" in done.output.splitlines()
