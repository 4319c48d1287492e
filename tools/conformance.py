"""Run the images of Arm's test suites that a user has built, and compare their results with a list.

    python tools/conformance.py [--acs PATH] [--tftf PATH] [--list FILE] [--update]

PATH is a checkout with a build, or the image itself (docs/conformance.md).  Prints a table of the
tests; a test whose result is not the recorded one is marked.  Exit code: 0 all as recorded, 1 some
differ, 2 bad input.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests/conformance/results.json"
PATIENCE = 3600  # seconds for one image
OPTIONS = ("--machine", "virt", "-c", "8", "-m", "512M", "--on-reboot", "exit")
NO_RESULT: Final = "none"

#: Where a build leaves its image.
IMAGES: Final = {
    "acs": ("build/output/acs_non_secure.bin",),
    "tftf": ("build/*/release/tftf.bin", "build/*/debug/tftf.bin"),
}
_ACS_TEST: Final = re.compile(r"Suite=(\S+)\s*:\s*Test=(\S+)")
_ACS_RESULT: Final = re.compile(r"Result\s*=>\s*(\w+)", re.IGNORECASE)
_TFTF_TEST: Final = re.compile(r"> Executing '(.+)'")
_TFTF_RESULT: Final = re.compile(r"TEST COMPLETE\s+(\w+)")


def results(test: re.Pattern[str], result: re.Pattern[str], log: str) -> dict[str, str]:
    """Return the result of each test that a log names; NO_RESULT of one that has not ended."""
    found: dict[str, str] = {}
    name = ""
    for line in log.splitlines():
        if begun := test.search(line):
            name = "/".join(begun.groups())
            found[name] = NO_RESULT
        if name and (ended := result.search(line)):
            found[name] = ended[1].lower()
    return found


PARSERS: Final[dict[str, Callable[[str], dict[str, str]]]] = {
    "acs": lambda log: results(_ACS_TEST, _ACS_RESULT, log),
    "tftf": lambda log: results(_TFTF_TEST, _TFTF_RESULT, log),
}


class BadInputError(Exception):
    """What the user gave cannot be used; the text says what to do."""


def image_of(suite: str, path: Path) -> Path:
    """Return the image of a suite in a checkout, or the file itself."""
    if path.is_file():
        return path
    found = [image for pattern in IMAGES[suite] for image in sorted(path.glob(pattern))]
    if not found:
        raise BadInputError(
            f"{path}: no {' or '.join(IMAGES[suite])}: build the suite, or name its image"
        )
    if len(found) > 1:
        raise BadInputError(f"{path}: several images: name one, for example {found[0]}")
    return found[0]


def run(image: Path) -> str:
    """Run an image at EL2; return its console."""
    command = (sys.executable, "-m", "pyvmm", "boot", "-k", image, *OPTIONS)
    done = subprocess.run(
        [*command, "--timeout", str(PATIENCE)], stdout=subprocess.PIPE, check=False, cwd=ROOT
    )
    if done.returncode == 2:  # pyvmm has said why
        raise BadInputError(f"{image}: it cannot be booted")
    return done.stdout.decode(errors="replace")


def recorded(path: Path) -> dict[str, dict[str, str]]:
    """Read a list: suite, test, result."""
    try:
        suites = json.loads(path.read_text())
        return {suite: {str(k): str(v) for k, v in suites[suite].items()} for suite in IMAGES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{path}: not a list of results ({error}): give another with --list"
        ) from None


def table(found: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    """Yield a line for each test, and the totals."""
    width = max(map(len, found | expected), default=0)
    for name in sorted(found | expected):
        result, old = found.get(name, "missing"), expected.get(name, "not recorded")
        yield f"{name:{width}}  {result}" + ("" if result == old else f"  <- {old}")
    yield ", ".join(
        f"{count} {result}" for result, count in sorted(Counter(found.values()).items())
    )


def parse_arguments() -> argparse.Namespace:
    """Return what the user asks for."""
    parser = argparse.ArgumentParser(description="Run test suites at EL2 and compare results.")
    for suite in IMAGES:
        parser.add_argument(f"--{suite}", type=Path, metavar="PATH", help="checkout or image")
    parser.add_argument(
        "--list", type=Path, default=RECORDED, metavar="FILE", help="recorded results"
    )
    parser.add_argument("--update", action="store_true", help="record the results")
    return parser.parse_args()


def main() -> int:
    """Run the suites that are given."""
    asked = parse_arguments()
    given = {suite: vars(asked)[suite] for suite in IMAGES if vars(asked)[suite] is not None}
    if not given:
        raise BadInputError("no suite: give ACS=PATH or TFTF=PATH (docs/conformance.md)")
    known, is_same = recorded(asked.list), True
    for suite, path in given.items():
        found = PARSERS[suite](run(image_of(suite, path)))
        if not found:
            raise BadInputError(f"{path}: its console names no test: is it an image of {suite}?")
        sys.stdout.write("\n".join((f"{suite}:", *table(found, known[suite]), "")))
        is_same &= found == known[suite]
        known[suite] = found
    if asked.update:
        asked.list.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return 0 if is_same or asked.update else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BadInputError as error:
        sys.stderr.write(f"conformance: {error}\n")
        sys.exit(2)
