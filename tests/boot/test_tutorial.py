"""The tutorial: every command in it is run, and prints what the tutorial shows."""

import re
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import pytest

from pyvmm.vm.images.debian import Image
from tests.boot.command import PYVMM, call, copy_disk
from tests.boot.shell import PATIENCE

pytestmark = pytest.mark.boot

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"
_MARK = "@@ "
_BLOCK = re.compile(r"^```\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
#: What is another each time, or with another kernel: addresses, digests, counts, processes.
_NUMBER = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+\.\d+|\d{3,}")


@dataclass(frozen=True, slots=True)
class Step:
    """A command and its expected output: ``...`` matches anything, a long number any other."""

    command: str
    output: str

    def shows(self, output: str) -> bool:
        """Return whether the output matches."""
        options = ELLIPSIS | NORMALIZE_WHITESPACE
        want, got = (_NUMBER.sub("#", text) for text in (self.output, output))
        return OutputChecker().check_output(want, got, options)


def steps() -> list[Step]:
    """Return the commands that the tutorial tells its reader to type."""
    blocks = _BLOCK.findall(TUTORIAL.read_text())
    return [Step(command, output) for block in blocks for command, output in _STEP.findall(block)]


def run(commands: list[str], directory: Path) -> list[tuple[int, str]]:
    """Type commands in one shell; return the exit code and the output of each."""
    told = f"\nprintf '{_MARK}%d\\n' $?\n"
    script = f"exec 2>&1; cd {directory}\n" + told.join([*commands, ""])
    path = f"{Path(PYVMM).parent}:/usr/bin:/bin:/usr/sbin:/sbin"
    environment = {"PATH": path, "XDG_RUNTIME_DIR": str(directory)}
    shell = call("bash", "-c", script, env=environment, patience=3 * PATIENCE)
    *outputs, rest = re.split(rf"^{_MARK}(\d+)\n", shell.output, flags=re.MULTILINE)
    assert not rest
    return [(int(code), text) for text, code in zip(outputs[::2], outputs[1::2], strict=True)]


def test_tutorial(debian: Image, tmp_path: Path) -> None:
    """All commands in order, in a new directory, with a new root of trust."""
    guest = tmp_path / "guest"
    guest.mkdir()
    copy_disk(debian, guest)
    for path in debian.directory.iterdir():
        if path.is_file() and path.name != "rootfs.img":
            (guest / path.name).symlink_to(path.resolve())
    told = steps()
    verbs = re.findall(r"^## \d+\. (\w+)", TUTORIAL.read_text(), re.MULTILINE)
    assert len(verbs) == 10
    for verb in verbs:
        assert any(step.command.startswith(f"pyvmm {verb} ") for step in told)
    done = run([step.command for step in told], tmp_path)
    different = [
        f"$ {step.command}\n{output}exit code {code}"
        for step, (code, output) in zip(told, done, strict=True)
        if code or not step.shows(output)
    ]
    assert not different, "\n".join(different)
