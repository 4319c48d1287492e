"""What every test may use: the seed, an event loop, a root of trust that is not the user's."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pyvmm.devices.ioloop import IoLoop
from pyvmm.root_of_trust import DIRECTORY_VARIABLE
from tests.vm.agent_program import compile_here
from tests.watchdog import watched

DEFAULT_SEED = 20_260_101
SLOW = 60  # seconds
STDERR = pytest.StashKey[int]()

# How long an example takes depends on what else the machine does.
settings.register_profile("pyvmm", settings(), deadline=None)
settings.load_profile("pyvmm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed and --engine."""
    parser.addoption("--seed", type=int, default=DEFAULT_SEED, help="seed of the random tests")
    parser.addoption("--engine", default="interp", help="what executes guest code in tests/core")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take Ctrl-C as a terminal gives it: who is started in the background inherits deafness.

    And let Hypothesis do the same each time, for the same seed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.option.hypothesis_seed = config.option.hypothesis_seed or config.option.seed
    config.stash[STDERR] = os.dup(sys.stderr.fileno())  # before a test's output is captured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Show what a test that takes long is about."""
    with watched(item.nodeid, SLOW, item.config.stash[STDERR]):
        return (yield)


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed, so that a failure can be repeated."""
    return f"seed: {config.getoption('--seed')}"


@pytest.fixture(scope="session", autouse=True)
def runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the instances of the tests apart from the user's."""
    path = tmp_path_factory.mktemp("runtime")
    path.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(path))
        yield path / "pyvmm"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of the random tests; a failing one prints it."""
    return int(request.config.getoption("--seed"))


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    """Return a running event loop."""
    loop = IoLoop()
    loop.start()
    yield loop
    loop.stop()


@pytest.fixture(scope="session")
def agent_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the guest agent, compiled for this machine."""
    path = tmp_path_factory.mktemp("agent") / "agent"
    compile_here(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def hes_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of the HES that the tests' realms have."""
    directory = tmp_path_factory.mktemp("hes") / "state"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY_VARIABLE, str(directory))
        yield directory
