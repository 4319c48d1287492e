"""What tests of devices that talk to the host need."""

from collections.abc import Iterator

import pytest

from pyvmm.devices.ioloop import IoLoop


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    """Return a running event loop."""
    loop = IoLoop()
    loop.start()
    yield loop
    loop.stop()
