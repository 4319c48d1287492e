"""The sandbox of the HES: it reads the installation, keeps its state, and answers its mailboxes."""

from pathlib import Path
from typing import Final

from pyvmm.arch.confine import calls
from pyvmm.arch.confine.landlock import WRITE, Beneath, python_files
from pyvmm.arch.confine.sandbox import Sandbox

_PACKAGES: Final = ("pyvmm", "rmm", "monitor", "hes")


def hes_sandbox(state: Path) -> Sandbox:
    """Return the sandbox of a HES whose state is in a directory; it has one thread."""
    return Sandbox(
        [*python_files(_PACKAGES), Beneath(state, WRITE)],
        {
            **calls.PROGRAM,
            **calls.MEMORY,
            **calls.DESCRIPTORS,
            **calls.CONNECTIONS,
            **calls.FILES,
        },
    )
