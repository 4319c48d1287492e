"""Coverage-guided fuzzing: `python -m tests.fuzz.fuzz TARGET CORPUS [libFuzzer option]...`.

A target takes any bytes; what it raises, and what it does not end, is a finding.  CORPUS is a
directory; seeds are added to it.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["hes", "pyvmm.token"]):
    from tests.fuzz import hes_targets, token_targets

Target = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A target, and inputs to start from."""

    target: Target
    seeds: Sequence[bytes]


#: By name; each is made when it is the one to run, and may keep files beside the corpus.
TARGETS: Final[dict[str, Callable[[Path], Fuzzed]]] = {
    "mailbox": lambda place: Fuzzed(hes_targets.mailbox(place), hes_targets.mailbox_seeds()),
    "bundle": lambda _: Fuzzed(hes_targets.bundle(), hes_targets.bundle_seeds()),
    "otp": lambda _: Fuzzed(hes_targets.otp, hes_targets.otp_seeds()),
    "token": lambda _: Fuzzed(token_targets.token, token_targets.token_seeds()),
    "user_file": lambda _: Fuzzed(token_targets.user_file, token_targets.user_file_seeds()),
}


#: Bytes of data that a target may hold.  The limit is the kernel's, not libFuzzer's: that one
#: compares the peak of getrusage(2), which a process inherits from the one that started it.
MEMORY: Final = 1 << 30


def main(name: str, corpus: str, *options: str) -> None:
    """Fuzz until the options end it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    fuzzed = TARGETS[name](Path(corpus).parent)
    for number, seed in enumerate(fuzzed.seeds):
        Path(corpus, f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, "-rss_limit_mb=0", *options], fuzzed.target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
