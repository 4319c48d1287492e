"""Waiting for what happens on another thread or in another process."""

import time
from collections.abc import Callable

PATIENCE = 30.0  # seconds


def wait_until(is_so: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Return as soon as something is so; fail if it is not within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.001)
