"""A bar for what takes its time: only on a terminal, and only when it takes long enough to ask."""

import sys
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE: Final = 0.3  # seconds


class Bar:
    """A context manager; what is reported to it is shown on standard error until it ends."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def report(self, doing: str, share: float) -> None:
        """Show what is being done, and how much of it is (0 to 1)."""
        if self._progress is None:
            if time.monotonic() < self._start + _PATIENCE or not sys.stderr.isatty():
                return
            self._progress = _new_progress()
            self._progress.start()
            self._task = self._progress.add_task(doing, total=1.0)
        if self._task is not None:
            self._progress.update(self._task, description=doing, completed=share)


def _new_progress() -> "Progress":
    from rich.console import Console  # noqa: PLC0415  slow to import
    from rich.progress import Progress  # noqa: PLC0415

    return Progress(console=Console(stderr=True), transient=True)
