"""The memory of another process, as a privileged observer sees it."""

import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 22
#: Longest thing that is looked for: chunks overlap by so much.
_OVERLAP = 256


def found_in(pid: int, secrets: dict[str, bytes]) -> set[str]:
    """Return the names of the values found in a process's memory, including guests' memory."""
    found: set[str] = set()
    for chunk in _chunks(pid):
        found |= {name for name, secret in secrets.items() if secret in chunk}
    return found


def _chunks(pid: int) -> Iterator[bytes]:
    """Yield all memory of a process: private memory, and the files that it shares."""
    proc = Path(f"/proc/{pid}")
    with (proc / "mem").open("rb", buffering=0) as memory:
        for line in (proc / "maps").read_text().splitlines():
            span, modes, *rest = line.split()
            if modes[0] != "r" or "memfd:" in line or (rest and rest[-1].startswith("[v")):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            yield from _span(memory.fileno(), start, end)
    for link in (proc / "fd").iterdir():
        if "memfd:" in str(link.readlink()):
            yield from _file(link)


def _span(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        try:
            yield os.pread(fd, min(_CHUNK + _OVERLAP, end - start), start)
        except OSError:
            return  # a guard page
        start += _CHUNK


def _file(path: Path) -> Iterator[bytes]:
    """Yield the parts of a sparse file that are not holes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end, size = 0, os.fstat(fd).st_size
        while end < size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                return  # holes to the end
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield from _span(fd, start, end)
    finally:
        os.close(fd)
