"""How long to wait for a guest's agent: as long as the guest shows signs of life."""

import time
from collections.abc import Callable

from pyvmm.vm.control.lifecycle import Lifecycle


def settling(lifecycle: Lifecycle, patience: float) -> Callable[[], bool]:
    """Return a check whether the agent is ready, or cannot be expected any longer.

    A guest that writes to its console still boots; ``patience`` is for silence, in seconds.
    """
    stillness = Stillness(patience)

    def has_settled() -> bool:
        sign = None if lifecycle.is_starting else lifecycle.console_log.end
        return lifecycle.has_settled or stillness.lasts(sign)

    return has_settled


class Stillness:
    """Detects that a guest has given no sign of life for some seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._last_sign: int | None = None
        self._since = 0.0

    def lasts(self, sign: int | None) -> bool:
        """Check whether the sign has not changed for so long; None counts as a change."""
        now = time.monotonic()
        if sign is None or sign != self._last_sign:
            self._last_sign, self._since = sign, now
        return now - self._since > self._patience
