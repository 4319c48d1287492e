"""The tutorial: every command in it is run, and prints what the tutorial shows."""

import re
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import copy_disk
from tests.boot.transcript import differences, steps

pytestmark = pytest.mark.boot

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"


def test_tutorial(debian: Image, tmp_path: Path) -> None:
    """All commands in order, in a new directory, with a new root of trust."""
    guest = tmp_path / "guest"
    guest.mkdir()
    copy_disk(debian, guest)
    for path in debian.directory.iterdir():
        if path.is_file() and path.name != "rootfs.img":
            (guest / path.name).symlink_to(path.resolve())
    told = steps(TUTORIAL)
    verbs = re.findall(r"^## \d+\. (\w+)", TUTORIAL.read_text(), re.MULTILINE)
    assert len(verbs) == 10
    for verb in verbs:
        assert any(step.command.startswith(f"pyvmm {verb} ") for step in told)
    different = differences(TUTORIAL, tmp_path)
    assert not different, "\n".join(different)
