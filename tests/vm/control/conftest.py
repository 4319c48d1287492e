"""An instance that is served."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.control.directory import Directory
from tests.vm.served import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Return a new instance that is served; it leaves no thread."""
    before = threading.active_count()
    made = Served(Directory(tmp_path / "pyvmm"))
    yield made
    made.close()
    assert threading.active_count() == before
