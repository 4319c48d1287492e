"""Short runs of the coverage-guided fuzzer; `make soak` runs long ones."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Inputs that a short run tries; a long one tries a hundred times as many.
RUNS = {"mailbox": 3_000, "bundle": 1_000, "otp": 10_000, "token": 2_000, "user_file": 10_000}
SOAK_FACTOR = 100
OPTIONS = ("-timeout=10", "-max_len=4300")


@pytest.mark.parametrize("factor", [1, pytest.param(SOAK_FACTOR, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", list(RUNS))
def test_nothing_is_found(target: str, factor: int, seed: int, tmp_path: Path) -> None:
    """No exception, no hang, no more memory than bounded."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this Python")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    runs = (f"-runs={RUNS[target] * factor}", f"-seed={seed}", f"-artifact_prefix={tmp_path}/")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz", target, str(corpus), *OPTIONS, *runs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ended = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert ended is not None, done.stderr
    assert int(ended[1]) >= RUNS[target] * factor  # more when it read its corpus again on the way
