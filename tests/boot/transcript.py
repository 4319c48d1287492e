"""Documents that show a session in a shell: their commands, run in order, and what they print."""

import re
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

from tests.boot.command import PYVMM, call
from tests.boot.shell import PATIENCE

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


def steps(document: Path) -> list[Step]:
    """Return the commands that a document tells its reader to type."""
    blocks = _BLOCK.findall(document.read_text())
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


def differences(document: Path, directory: Path) -> list[str]:
    """Run a document's commands; return those that fail or print something else."""
    told = steps(document)
    done = run([step.command for step in told], directory)
    return [
        f"$ {step.command}\n{output}exit code {code}"
        for step, (code, output) in zip(told, done, strict=True)
        if code or not step.shows(output)
    ]
