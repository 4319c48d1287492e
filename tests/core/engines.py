"""Machines for the tests of the core, with the engine of the command line or another."""

from __future__ import annotations

import errno

import pytest
from pyvmm.core._core import ffi, lib

from pyvmm.arch.engine import Engine
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.core import Clock, Machine


def chosen() -> Engine:
    """Return the engine of the command line."""
    return Engine((Machine.__init__.__kwdefaults__ or {})["engine"])


def new_machine(
    dram_base: int,
    dram_size: int,
    num_pes: int = 1,
    clock: Clock = Clock.REAL,
    features: Feature = DEFAULT_FEATURES,
    *,
    engine: Engine | None = None,
    threshold: int = 1,
) -> Machine:
    """Return a machine; without an engine, with that of the command line (conftest.py)."""
    if num_pes > 1 and chosen() is Engine.CHECK:
        engine = Engine.JIT  # check is for one PE
    if engine is None:
        return Machine(dram_base, dram_size, num_pes, clock, features)
    return Machine(
        dram_base, dram_size, num_pes, clock, features, engine=engine, threshold=threshold
    )


class _Forbidding:
    """The core on a host that forbids generated code."""

    def __getattr__(self, name: str) -> object:
        return getattr(lib, name)

    def machine_translate(self, *_: object) -> int:
        ffi.errno = errno.EACCES
        return -1


def forbid_generated_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let translation fail as SELinux or the sysctl vm.memfd_noexec does."""
    monkeypatch.setattr("pyvmm.core.machine.lib", _Forbidding())
