"""A capture file: every frame of a network card, for Wireshark and tcpdump.

Source: the pcap file format (draft-ietf-opsawg-pcap), with times in nanoseconds.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import Final

from pyvmm.arch.errors import UserError

_MAGIC: Final = 0xA1B2_3C4D  # times in nanoseconds
_MAX_FRAME: Final = 1 << 18
_ETHERNET: Final = 1
_file_header = Struct("<IHHIIII").pack  # magic, version, two unused words, longest frame, kind
_frame_header = Struct("<IIII").pack  # seconds, nanoseconds, bytes in the file, bytes
_NS_PER_SECOND: Final = 1_000_000_000


class Capture:
    """A file that gets frames, complete at any time; any thread may record.

    Args:
        notify: called with a line if the file can take no more; the capture ends then.
        clock: nanoseconds since 1970.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(
        self, path: Path, notify: Callable[[str], None], clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._path = path
        self._notify = notify
        self._clock = clock
        self._lock = Lock()
        self._is_open = True
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags, 0o600)
            os.write(self._fd, _file_header(_MAGIC, 2, 4, 0, 0, _MAX_FRAME, _ETHERNET))
        except OSError as error:
            raise UserError(f"-n pcap={path}: {error.strerror}: give another file") from None

    def record(self, frame: Sequence[bytes | memoryview]) -> None:
        """Append a frame."""
        size = sum(map(len, frame))
        with self._lock:
            if not self._is_open:
                return
            now = divmod(self._clock(), _NS_PER_SECOND)
            parts = [_frame_header(*now, size, size), *frame]
            try:
                written = os.writev(self._fd, parts)
                reason = "" if written == sum(map(len, parts)) else "no space left"
            except OSError as error:
                reason = str(error.strerror)
            if reason:
                self._close()
                self._notify(f"pcap={self._path}: {reason}: the capture ends")

    def close(self) -> None:
        """End the capture."""
        with self._lock:
            if self._is_open:
                self._close()

    def _close(self) -> None:
        self._is_open = False
        os.close(self._fd)
