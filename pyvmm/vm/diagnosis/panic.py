"""Recognises a Linux kernel panic on the console: from outside it is visible only there."""

import re
from typing import Final

_PREFIX: Final = rb"(?:^|\n)(?:<\d+>)?(?:\[ *\d+\.\d+\](?:\[[^\]\n]*\])? )?"
_BEGIN: Final = re.compile(_PREFIX + rb"Kernel panic - not syncing")
_MESSAGE: Final = re.compile(_BEGIN.pattern + rb": ([^\r\n]+)[\r\n]")
_END: Final = re.compile(_PREFIX + rb"---\[ end Kernel panic - not syncing[^\n]*\n")
_LONGEST_LINE: Final = 1024
_LONGEST_MESSAGE: Final = 256


class PanicWatch:
    """Watches the console's output for the first and the last line of a panic.

    A kernel configured to reboot after a panic does not write the last line.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.message = ""  # the kernel's reason
        self.has_ended = False
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Read the next bytes of output."""
        self._tail += data
        if b"\n" not in data and len(self._tail) < _LONGEST_LINE:
            return  # most writes are pieces of a line
        self.has_begun |= _BEGIN.search(self._tail) is not None
        if not self.message and (match := _MESSAGE.search(self._tail)):
            self.message = match[1][:_LONGEST_MESSAGE].decode(errors="replace")
        self.has_ended |= _END.search(self._tail) is not None
        newline = self._tail.rfind(b"\n")
        self._tail = self._tail[max(newline, len(self._tail) - _LONGEST_LINE, 0) :]
