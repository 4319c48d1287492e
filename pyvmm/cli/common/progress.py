"""A progress bar: only on a terminal, and only for work that takes longer than a moment."""

import sys
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_DELAY: Final = 0.3  # seconds until the bar appears


class Bar:
    """A context manager that shows the progress reported to it on standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def report(self, doing: str, share: float) -> None:
        """Show what is being done, and which share of it is done (0 to 1)."""
        if self._progress is None:
            if time.monotonic() < self._start + _DELAY or not sys.stderr.isatty():
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
