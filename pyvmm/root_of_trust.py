"""The part of the composition root before the machine: it connects to the HES.

It is separate from ``platform.py`` so that the HES starts while everything else is still loading,
and so that commands that only call the HES need no machine.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import platformdirs

from hes.client import HesError, Mailbox
from pyvmm.arch.errors import UserError
from pyvmm.arch.psa import MAX_PAYLOAD, HesService
from pyvmm.arch.text import printable
from pyvmm.token.generations import Generation

DIRECTORY_VARIABLE: Final = "PYVMM_HES_DIR"
MAX_BUNDLE: Final = MAX_PAYLOAD  # bytes of a provisioning bundle


def hes_directory() -> Path:
    """Return the default directory of the HES's state."""
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_state_path("pyvmm") / "hes"


@dataclass(frozen=True, slots=True)
class HesStatus:
    """The state of the HES; ids and keys are empty until provisioned."""

    directory: Path
    lifecycle: str
    successors: tuple[str, ...]  # lifecycle states that can be requested
    counters: dict[str, int]
    machines: tuple[int, ...]  # processes whose machines are on
    implementation_id: str
    instance_id: str
    config: str
    verification_service: str
    cpak: str  # public key, a SEC1 point


@dataclass(frozen=True, slots=True)
class BootEvent:
    """A measurement of a boot, and its slot's value after it; binary values are hexadecimal."""

    slot: int
    sw_type: str
    version: str
    signer_id: str
    algorithm: str
    digest: str
    value: str
    is_locked: bool


class RootOfTrust:
    """A machine's connection to its HES; as a context manager, it switches the machine off.

    Raises:
        UserError: no HES is running, and none could be started; from every method: it refuses.
    """

    def __init__(
        self, directory: Path | None = None, generation: Generation = Generation.G1
    ) -> None:
        self.generation = generation
        self.notice = ""  # for the user, once the machine is on
        try:
            self.mailbox = Mailbox((directory or hes_directory()).absolute())
        except HesError as error:
            raise no_realm(error) from None

    def power_on(self) -> None:
        """Have the HES measure the installation, and let the machine leave reset."""
        try:
            self.notice = self.mailbox.ask(HesService.POWER_ON, self.generation.encode())
        except HesError as error:
            raise no_realm(error) from None

    def status(self) -> HesStatus:
        """Return the state of the HES and the machines that it serves."""
        said = json.loads(self._ask(HesService.STATUS))
        said["directory"] = Path(said["directory"])
        said["successors"] = tuple(said["successors"])
        said["machines"] = tuple(said["machines"])
        return HesStatus(**said)

    def log(self, pid: int = 0) -> list[BootEvent]:
        """Return the event log of this machine, or of the machine of process ``pid``."""
        events: list[BootEvent] = []
        while True:
            place = (number.to_bytes(4, "little") for number in (pid, len(events)))
            more = json.loads(self._ask(HesService.LOG, *place))
            if not more:
                return events
            events += (BootEvent(**event) for event in more)

    def provision(self, bundle: bytes) -> str:
        """Give the HES a bundle of at most MAX_BUNDLE bytes; return the new lifecycle state."""
        return self._ask(HesService.PROVISION, bundle)

    def set_lifecycle(self, state: str) -> str:
        """Change the lifecycle state; return the new one."""
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

    def __exit__(self, *_: object) -> None:
        self.close()


class ReplayedRootOfTrust(RootOfTrust):
    """The root of trust of a replay: a record has its replies, so it connects to none."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.notice = ""

    def power_on(self) -> None:
        """Do nothing: the machine of the record was on."""

    def close(self) -> None:
        """Do nothing."""


def no_realm(error: OSError) -> UserError:
    """Return the error for a realm whose root of trust has failed."""
    return UserError(f"a realm needs its root of trust: {error} (or run it unattested: --no-hes)")


def make_bundles(directory: Path) -> list[Path]:
    """Simulate a chip maker and a device maker: write new keys and a bundle for each.

    Raises:
        UserError: the directory cannot be written.
    """
    from hes.provisioning import makers_files  # noqa: PLC0415  not needed to boot a machine

    paths: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in makers_files().items():
            with open(directory / name, "xb", opener=_private) as file:
                paths.append(directory / name)
                file.write(data)
    except OSError as error:
        for path in paths:  # an incomplete set is useless
            path.unlink()
        where = error.filename or directory
        raise UserError(f"{where}: {error.strerror}: choose another directory") from None
    return paths


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
