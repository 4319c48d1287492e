"""The tests of the core run on the interpreter, or with ``--engine jit`` on the translator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.arch.engine import Engine
from pyvmm.core import Machine

TRANSLATE_AT_ONCE = 1


@pytest.fixture(scope="session", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Have every machine that does not choose an engine use that of the command line."""
    engine = Engine(request.config.getoption("--engine"))
    with pytest.MonkeyPatch.context() as patch:
        defaults = {"engine": engine, "threshold": TRANSLATE_AT_ONCE}
        patch.setattr(Machine.__init__, "__kwdefaults__", defaults)
        yield engine
