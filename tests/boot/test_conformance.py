"""`make conformance`: the runner, on an image of our own that prints as the suites do."""

import json
import sys
from pathlib import Path

import pytest

from tests.boot.bare_program import compile_host, compile_realm
from tests.boot.command import Ended, call

TESTS = {"command/cmd_version": "passed", "command/cmd_rtt_fold": "failed", "gic/gic_hangs": "none"}
TFTF_TESTS = {"RMI version": "passed", "PMU": "skipped"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with an image where a build of the suite leaves its own."""
    directory = tmp_path_factory.mktemp("suite")
    compile_realm(directory)
    image = directory / "build/output/acs_non_secure.bin"
    image.parent.mkdir(parents=True)
    image.write_bytes(compile_host(directory, "suite.c").read_bytes())
    return directory


def conformance(*arguments: str | Path) -> Ended:
    """Run the tool."""
    return call(sys.executable, "tools/conformance.py", *arguments)


def write_list(path: Path, acs: dict[str, str]) -> Path:
    """Write a list of results."""
    path.write_text(json.dumps({"acs": acs, "tftf": {}}))
    return path


@pytest.mark.boot
def test_results_are_compared_with_the_list(checkout: Path, tmp_path: Path) -> None:
    """A change is marked, and is exit code 1; --update records."""
    file = write_list(tmp_path / "list.json", TESTS | {"gic/gic_hangs": "passed"})
    done = conformance("--acs", checkout, "--list", file)
    assert (done.code, done.errors) == (1, "")
    assert done.output.splitlines() == [
        "acs:",
        "command/cmd_rtt_fold  failed",
        "command/cmd_version   passed",
        "gic/gic_hangs         none  <- passed",
        "1 failed, 1 none, 1 passed",
    ]
    assert conformance("--acs", checkout, "--list", file, "--update").code == 0
    assert json.loads(file.read_text())["acs"] == TESTS
    assert conformance("--acs", checkout, "--list", file).code == 0


@pytest.mark.boot
def test_the_format_of_tf_a_tests(checkout: Path, tmp_path: Path) -> None:
    """The image itself may be named."""
    file = write_list(tmp_path / "list.json", {})
    image = checkout / "build/output/acs_non_secure.bin"
    assert conformance("--tftf", image, "--list", file, "--update").code == 0
    assert json.loads(file.read_text())["tftf"] == TFTF_TESTS


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "conformance: no suite: give ACS=PATH or TFTF=PATH (docs/conformance.md)"),
        (
            ("--acs", "docs"),
            "conformance: docs: no build/output/acs_non_secure.bin: build the suite",
        ),
        (("--acs", "docs", "--list", "README.md"), "conformance: README.md: not a list of results"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], error: str) -> None:
    """One line, exit code 2."""
    done = conformance(*arguments)
    assert (done.code, done.output, len(done.errors.splitlines())) == (2, "", 1)
    assert done.errors.startswith(error)
