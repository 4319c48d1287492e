"""What every test may use: the seed."""

from __future__ import annotations

import pytest

DEFAULT_SEED = 20_260_101


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed."""
    parser.addoption("--seed", type=int, default=DEFAULT_SEED, help="seed of the random tests")


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed, so that a failure can be repeated."""
    return f"seed: {config.getoption('--seed')}"


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of the random tests; a failing one prints it."""
    return int(request.config.getoption("--seed"))
