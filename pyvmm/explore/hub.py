"""The instances that the explorer shows."""

from collections.abc import Sequence
from threading import Lock

from pyvmm.explore.watcher import Watcher
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.directory import Directory


class Hub:
    """The watchers: one per instance that was named, or that a browser has chosen.

    Args:
        place: the directory of the instances.
        names: the instances to show; none: all.
    """

    def __init__(self, place: Directory, names: Sequence[str]) -> None:
        self._place = place
        self._names = names
        self._watchers: dict[str, Watcher] = {}
        self._lock = Lock()

    def open(self) -> None:
        """Watch the instances that were named, so that nothing of them is missed.

        Raises:
            UserError: one does not exist.
        """
        for name in self._names:
            self._place.find(name)
            self.watch(name)

    def close(self) -> None:
        """Stop watching."""
        with self._lock:
            watchers, self._watchers = list(self._watchers.values()), {}
        for watcher in watchers:
            watcher.close()

    def statuses(self) -> list[Status]:
        """Return the instances that may be chosen, those that have ended while watched included."""
        found = {status.name: status for status in self._place.statuses()}
        with self._lock:
            for name, watcher in self._watchers.items():
                if watcher.status is not None:
                    found.setdefault(name, watcher.status)
        names = self._names or found
        return [each for name, each in sorted(found.items()) if name in names]

    def watch(self, name: str) -> Watcher:
        """Return the watcher of an instance; a new one if another instance has taken the name."""
        with self._lock:
            watcher = self._watchers.get(name)
            if watcher is not None and not (watcher.has_ended and self._is_another(watcher)):
                return watcher
            self._watchers[name] = watcher = Watcher(self._place, name)
        watcher.start()
        return watcher

    def _is_another(self, watcher: Watcher) -> bool:
        """Check whether an instance of this name runs that is not the one that has ended."""
        for status in self._place.statuses():
            if status.name == watcher.name and status.state not in {State.STOPPED, State.DEAD}:
                return watcher.status is None or watcher.status.pid != status.pid
        return False
