"""Looking into Debian while it runs: a realm with two CPUs, and a normal VM."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import Running, guest_options
from tests.boot.shell import Shell
from tests.cli.inside import verb

pytestmark = pytest.mark.boot
NAME = "looked-at"


@pytest.fixture(scope="module", params=["realm", "normal VM"])
def shell(request: pytest.FixtureRequest, debian: Image) -> Iterator[Shell]:
    """Return the shell of an observed guest."""
    kind = ("--realm", "--no-hes") if request.param == "realm" else ()
    options = (*guest_options(debian, None), "--observe", "--name", NAME, "-c", "2", *kind)
    with Running("run", *options) as guest:
        guest.shell.log_in()
        yield guest.shell


def look(*words: str) -> str:
    """Return what a picture says."""
    shown = verb("inspect", NAME, *words)
    assert (shown.code, shown.errors) == (0, "")
    return shown.output


def test_walk_of_the_kernel_s_code(shell: Shell) -> None:
    """/proc/kallsyms gives the address of a function: EL1 may fetch there, EL0 may nothing."""
    assert shell.run("echo 0 >/proc/sys/kernel/kptr_restrict").status == 0
    answer = shell.run("grep ' schedule$' /proc/kallsyms")
    address = f"0x{answer.output.split()[0]}"
    walk = json.loads(look("walk", address, "--el", "1", "--json"))
    assert [step["stage"] for step in walk["steps"]] == sorted(s["stage"] for s in walk["steps"])
    assert walk["gpi"] == walk["pas"] != "ROOT"
    assert [each["is_allowed"] for each in walk["accesses"]] == [True, False, True]
    user = json.loads(look("walk", address, "--el", "0", "--json"))
    assert not any(each["is_allowed"] for each in user["accesses"])


def test_the_guest_goes_on_while_it_is_watched(shell: Shell) -> None:
    """Every picture, again and again, while the guest works: its result is right."""
    shell.type("seq 200000 | sha256sum; echo '<'done'>'\n")
    for kind in ("gpt", "pe", "gic", "timers", "queues") * 3:
        assert look(kind)
    assert "agree on every granule" in look("gpt")
    shell.expect(re.compile(rb"<done>"))
    assert shell.run("seq 200000 | sha256sum | cut -c1-8").output.split() == ["5af7b952"]


def test_a_picture_for_a_lecture(shell: Shell, tmp_path: Path) -> None:
    """An SVG file of the map."""
    assert shell.run("true").status == 0
    assert verb("inspect", NAME, "gpt", "--svg", str(tmp_path / "gpt.svg")).code == 0
    assert (tmp_path / "gpt.svg").stat().st_size > 10_000
