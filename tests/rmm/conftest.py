"""Fixtures of the RMM's tests."""

import pytest

from tests.rmm.world import World


@pytest.fixture
def world() -> World:
    """A booted RMM on a machine without a CPU."""
    return World()
