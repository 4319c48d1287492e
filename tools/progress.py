"""Run a command quietly: show on a terminal how far it is, and its output only if it fails.

``progress.py TITLE PATTERN TOTAL COMMAND...``: each line of output that matches the pattern is a
step, which its first group names; TOTAL is how many are expected, 0 if that is unknown.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

_LAST_LINES: Final = 30  # of a command that has failed


def main(title: str, pattern: str, total: str, *command: str) -> int:
    """Run the command; return its exit status."""
    sys.stdout.write(f"{title}\n")
    sys.stdout.flush()
    pipe = subprocess.PIPE
    output: list[str] = []
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        for step in _steps(process.stdout, re.compile(pattern), output):
            _show(step, int(total))
    _erase()
    if process.returncode:
        sys.stderr.writelines(output[-_LAST_LINES:])
    return process.returncode


def _steps(
    lines: Iterator[str], pattern: re.Pattern[str], output: list[str]
) -> Iterator[tuple[int, str]]:
    """Yield number and name of each step; keep all lines."""
    number = 0
    for line in lines:
        output.append(line)
        if found := pattern.search(line):
            number += 1
            yield number, found[1]


def _show(step: tuple[int, str], total: int) -> None:
    """Replace the line that shows the current step."""
    number, name = step
    text = f"  {number} of {total}: {name}" if total else f"  {number}: {name}"
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
        sys.stdout.flush()


def _erase() -> None:
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
