"""A running instance in daily use: copies, a terminal, a clean shutdown."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import guest_options, pyvmm
from tests.boot.shell import PATIENCE
from tests.cli.instance import at_terminal

pytestmark = pytest.mark.boot
NAME = "daily"


@pytest.fixture(scope="module")
def guest(debian: Image) -> Iterator[str]:
    """Return a running VM."""
    disk = f"{debian.rootfs},snapshot"
    created = pyvmm("create", NAME, *guest_options(debian, None), "-d", disk)
    assert created.code == 0, created.errors
    assert pyvmm("start", "--wait", NAME).code == 0
    yield NAME
    pyvmm("destroy", NAME)


def test_tree_comes_back_as_it_went(guest: str, tmp_path: Path, seed: int) -> None:
    """Content, modes and links, into a guest and out of it."""
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "big").write_bytes(Random(seed).randbytes(3 << 20))
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o755)
    (tree / "link").symlink_to("nowhere")
    (tree / os.fsdecode(b"caf\xe9")).touch()
    assert pyvmm("cp", tree, f"{guest}:/root").errors == ""
    listed = pyvmm("exec", guest, "--", "sh", "-c", "cd /root/tree && stat -c '%U %a' script && ls")
    assert listed.output.splitlines()[0] == "root 755"
    assert pyvmm("cp", f"{guest}:/root/tree", tmp_path / "back").errors == ""
    compared = {path.name: path for path in (tmp_path / "back").iterdir()}
    assert sorted(compared) == sorted(path.name for path in tree.iterdir())
    assert compared["big"].read_bytes() == (tree / "big").read_bytes()
    assert compared["script"].stat().st_mode == (tree / "script").stat().st_mode
    assert compared["link"].readlink() == Path("nowhere")


def test_copy_that_fails_is_one_line(guest: str, tmp_path: Path) -> None:
    """Whichever side is wrong."""
    for source, target, words in (
        (f"{guest}:/none", tmp_path, "/none"),
        (tmp_path / "none", f"{guest}:/root", "No such file"),
        (tmp_path, f"{guest}:/none/dir/", "/none/dir/ is not a directory of the guest"),
        (f"{guest}:relative", tmp_path, f"give an absolute path in the guest: {guest}:/relative"),
        (tmp_path, tmp_path, "give NAME:PATH for one of"),
        (f"{guest}:/etc", f"{guest}:/root", "give NAME:PATH for one of"),
    ):
        ended = pyvmm("cp", source, target)
        assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1), ended.errors
        assert words.removeprefix("/") in ended.errors


def test_command_has_a_terminal_of_this_size(guest: str) -> None:
    """And gets every key, Ctrl-C too."""
    with at_terminal("exec", "-it", guest, "--", "sh", "-c", "stty size; sleep 99") as (shell, end):
        shell.expect(re.compile(rb"24 80"))
        shell.type("\x03")
        assert end.wait(PATIENCE) == 130


def test_guest_shuts_down_by_itself(guest: str) -> None:
    """It powers off in order, and starts again."""
    assert pyvmm("shutdown", guest).code == 0
    assert pyvmm("list", "--run", "-q").output == ""
    assert "reboot: Power down" in pyvmm("logs", guest).output
