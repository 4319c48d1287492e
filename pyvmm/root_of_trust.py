"""The part of the composition root that comes before the machine: it brings the HES to life.

It is apart from ``platform.py`` so that the HES starts while all the rest is still being loaded.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import platformdirs

from hes.client import HesError, Mailbox
from pyvmm.arch.errors import UserError
from pyvmm.arch.psa import HesService
from pyvmm.token.generations import Generation

DIRECTORY_VARIABLE: Final = "PYVMM_HES_DIR"


def hes_directory() -> Path:
    """Return where the HES keeps its state unless told otherwise."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_state_path("pyvmm") / "hes"


class RootOfTrust:
    """A machine's line to its HES; a context manager that switches it off.

    Raises:
        UserError: there is no HES, and none could be started.
    """

    def __init__(
        self, directory: Path | None = None, generation: Generation = Generation.G1
    ) -> None:
        self.generation = generation
        self.notice = ""
        try:
            self.mailbox = Mailbox((directory or hes_directory()).absolute())
        except HesError as error:
            raise no_realm(error) from None

    def power_on(self) -> None:
        """Have the HES measure what is there before the machine leaves reset.

        Raises:
            UserError: the HES is gone, or has nothing to attest with.
        """
        try:
            self.notice = self.mailbox.ask(HesService.POWER_ON, self.generation.encode())
        except HesError as error:
            raise no_realm(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.mailbox.close()


def no_realm(error: OSError) -> UserError:
    """Return what a user who asked for a realm is told when its root of trust has failed."""
    return UserError(f"no realm without its root of trust: {error} (or --no-hes: no attestation)")
