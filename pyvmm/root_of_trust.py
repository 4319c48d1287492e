"""The part of the composition root that comes before the machine: it brings the HES to life.

It is apart from ``platform.py`` so that the HES starts while all the rest is still being loaded,
and so that what only asks the HES needs no machine.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import platformdirs

from hes.client import HesError, Mailbox
from pyvmm.arch.errors import UserError
from pyvmm.arch.psa import MAX_PAYLOAD, HesService
from pyvmm.arch.text import printable
from pyvmm.token.generations import Generation

DIRECTORY_VARIABLE: Final = "PYVMM_HES_DIR"
MAX_BUNDLE: Final = MAX_PAYLOAD  # bytes of one that is provisioned


def hes_directory() -> Path:
    """Return where the HES keeps its state unless told otherwise."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_state_path("pyvmm") / "hes"


@dataclass(frozen=True, slots=True)
class HesStatus:
    """What the HES says of itself; ids and keys are empty where not provisioned."""

    directory: Path
    lifecycle: str
    successors: tuple[str, ...]  # the lifecycle states that may be asked for
    counters: dict[str, int]
    machines: tuple[int, ...]  # the processes whose machines are on
    implementation_id: str
    instance_id: str
    config: str
    verification_service: str
    cpak: str  # public, a SEC1 point


@dataclass(frozen=True, slots=True)
class BootEvent:
    """A measurement of a boot, and the value of its slot since; binary values in digits."""

    slot: int
    sw_type: str
    version: str
    signer_id: str
    algorithm: str
    digest: str
    value: str
    is_locked: bool


class RootOfTrust:
    """A machine's line to its HES; a context manager that switches it off.

    Raises:
        UserError: there is no HES, and none could be started; or, of every method, it refuses.
    """

    def __init__(
        self, directory: Path | None = None, generation: Generation = Generation.G1
    ) -> None:
        self.generation = generation
        self.notice = ""  # what the user should know once the machine is on
        try:
            self.mailbox = Mailbox((directory or hes_directory()).absolute())
        except HesError as error:
            raise no_realm(error) from None

    def power_on(self) -> None:
        """Have the HES measure what is there before the machine leaves reset."""
        try:
            self.notice = self.mailbox.ask(HesService.POWER_ON, self.generation.encode())
        except HesError as error:
            raise no_realm(error) from None

    def status(self) -> HesStatus:
        """Return what the HES is and whom it serves."""
        said = json.loads(self._ask(HesService.STATUS))
        said["directory"] = Path(said["directory"])
        said["successors"] = tuple(said["successors"])
        said["machines"] = tuple(said["machines"])
        return HesStatus(**said)

    def log(self, pid: int = 0) -> list[BootEvent]:
        """Return the event log of this machine, or of another process's."""
        events: list[BootEvent] = []
        while True:
            place = (number.to_bytes(4, "little") for number in (pid, len(events)))
            more = json.loads(self._ask(HesService.LOG, *place))
            if not more:
                return events
            events += (BootEvent(**event) for event in more)

    def provision(self, bundle: bytes) -> str:
        """Have a bundle of at most MAX_BUNDLE bytes taken; return the lifecycle state after it."""
        return self._ask(HesService.PROVISION, bundle)

    def set_lifecycle(self, state: str) -> str:
        """Go to another lifecycle state; return it."""
        return self._ask(HesService.SET_LIFECYCLE, printable(state).encode())

    def advance_counter(self, name: str, value: int) -> None:
        """Advance a non-volatile counter."""
        self._ask(HesService.ADVANCE_COUNTER, name.encode(), value.to_bytes(4, "little"))

    def _ask(self, service: HesService, *inputs: bytes) -> str:
        try:
            return self.mailbox.ask(service, *inputs)
        except HesError as error:
            raise UserError(str(error)) from None

    def close(self) -> None:
        """Switch the machine off."""
        self.mailbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


def no_realm(error: OSError) -> UserError:
    """Return what a user who asked for a realm is told when its root of trust has failed."""
    return UserError(f"no realm without its root of trust: {error} (or --no-hes: no attestation)")


def make_bundles(directory: Path) -> list[Path]:
    """Be a chip maker and a device maker: write new keys of both, and a bundle of each.

    Raises:
        UserError: the directory cannot be written.
    """
    from hes.provisioning import makers_files  # noqa: PLC0415  no machine waits for it

    paths: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in makers_files().items():
            with open(directory / name, "xb", opener=_private) as file:
                paths.append(directory / name)
                file.write(data)
    except OSError as error:
        for path in paths:  # a part of them is of no use
            path.unlink()
        where = error.filename or directory
        raise UserError(f"{where}: {error.strerror}: choose another directory") from None
    return paths


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
