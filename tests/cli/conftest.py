"""A separate runtime directory for each test that creates instances."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.inside import verb


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide a runtime directory; end all instances that the test leaves there."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    yield directory / "pyvmm"
    for path in (directory / "pyvmm").glob("*.d"):
        verb("destroy", path.stem, "--timeout", "0")
