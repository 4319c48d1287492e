"""The initial measurement (RIM) of a realm that is never run, and the log of what went into it.

The realm is built as for a run, by the real RMM, and no vCPU is started: so the measurement is
right by construction, and the RMM tells each of its steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Final, TypeGuard

from pyvmm.arch import strict_json
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import Event, RimExtension
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RealmFlags, RealmParams
from pyvmm.arch.strict_json import Json
from pyvmm.arch.user_file import read_file
from pyvmm.devices.bus import Bus
from pyvmm.host.vgic import Vgic
from pyvmm.vm.machine.boot import make_config
from pyvmm.vm.machine.platform import Platform
from pyvmm.vm.options import VmOptions

#: One step of a realm's construction by the names of its fields, as a log has it.
Entry = dict[str, str]

#: What of another host's machine is measured, and the flag of RmiRealmParams that goes with it.
_HOST_PARAMETERS: Final = {
    "num_bps": 0,
    "num_wps": 0,
    "sve_vl": RealmFlags.SVE,
    "pmu_num_ctrs": RealmFlags.PMU,
}
_MAX_PARAMETER: Final = 63
_MAX_LOG_SIZE: Final = 1 << 30
#: Of an entry, what is not a field of the step.
_NOT_MEASURED: Final = frozenset({"step", "of", "rim"})


class RealmPlan:
    """A realm as it would be built.

    Only its payload needs memory, ``memory_size`` bytes of it: the rest of its RAM is declared, and
    never touched.

    Raises:
        UserError: it is no realm, or its payload is not to be had.
    """

    def __init__(self, options: VmOptions) -> None:
        if options.realm is None:
            raise UserError("only a realm is measured: add --realm")
        self._realm = replace(options.realm, metadata=b"")  # they are made for the RIM
        config = make_config(options)
        dtb = config.segments[-1]  # the last of the payload, of whole granules
        self.memory_size = dtb.ipa + len(dtb.data) - config.ram_base
        self._config = replace(config, backed_size=self.memory_size)

    def measure(self, platform: Platform) -> list[RimExtension]:
        """Build the realm; return the steps that were measured, the last one has the RIM.

        The platform is used up: to take the realm apart would take as long as to build it.
        """
        steps: list[RimExtension] = []

        def listener(event: Event) -> None:
            if isinstance(event, RimExtension):
                steps.append(event)

        bus, vgic = Bus(platform.events), Vgic(self._config.num_cpus)
        guest = platform.new_guest(self._config, bus, vgic, self._realm)
        platform.events.listener = listener
        guest.build()
        return steps

    def log(self, steps: Sequence[RimExtension]) -> list[Entry]:
        """Return the steps as a log has them; data says which part of the payload it is."""
        parts = {}
        for segment in self._config.segments:
            first, end = segment.ipa & -GRANULE_SIZE, segment.ipa + len(segment.data)
            parts.update(dict.fromkeys(range(first, end, GRANULE_SIZE), segment.name))
        entries = []
        for step in steps:
            ipa = dict(step.fields).get("ipa")
            part = {"of": parts[ipa]} if isinstance(ipa, int) else {}
            entries.append({"step": step.step, **step.texts, **part, "rim": step.rim.hex()})
        return entries


def parse_host(text: str) -> dict[str, int]:
    """Read NAME=N,...: members of RmiRealmParams that depend on the host.

    Raises:
        UserError: an unknown name, or a number out of range.
    """
    parameters = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        if name not in _HOST_PARAMETERS or not value.isdecimal():
            raise UserError(f"--host {word}: give {'=N,'.join(_HOST_PARAMETERS)}=N")
        if int(value[:9]) > _MAX_PARAMETER:
            raise UserError(f"--host {word}: give at most {_MAX_PARAMETER}")
        parameters[name] = int(value)
    return parameters


def on_host(create: RimExtension, parameters: dict[str, int]) -> RimExtension:
    """Return the first step of a construction as a host with other parameters begins it."""
    fields = dict(create.fields)
    flags = RealmParams.of(**fields).flags
    for name in parameters:
        flags |= _HOST_PARAMETERS[name]
    return replace(create, fields=tuple({**fields, "flags": flags, **parameters}.items()))


# --- logs -------------------------------------------------------------------------------------


def read_log(path: Path) -> list[Entry]:
    """Read the log that `pyvmm measure --log --json` wrote.

    Raises:
        UserError: it cannot be read, or is no such log.
    """
    data = read_file(path, "measurement log", _MAX_LOG_SIZE, takes_pipe=True)
    try:
        log = strict_json.loads(data)
    except ValueError:
        log = None
    steps = log.get("log") if isinstance(log, dict) else None
    if isinstance(steps, list):
        entries = [step for step in steps if _is_entry(step)]
        if len(entries) == len(steps):
            return entries
    raise UserError(f"measurement log {path} is none: give what pyvmm measure --log --json wrote")


def _is_entry(entry: Json) -> TypeGuard[Entry]:
    return (
        isinstance(entry, dict)
        and "step" in entry
        and all(isinstance(value, str) for value in entry.values())
    )


def first_difference(
    one: Sequence[Entry], other: Sequence[Entry]
) -> tuple[int, Entry | None, Entry | None] | None:
    """Return the number and both sides of the first step that is measured differently."""
    for number, (left, right) in enumerate(zip_longest(one, other)):
        if left is None or right is None or _fields(left) != _fields(right):
            return number, left, right
    return None


def line_of(entry: Entry) -> str:
    """Return an entry as one line for a reader."""
    words = [f"{entry['step']:<12}", *(f"{n}={text}" for n, text in _fields(entry).items())]
    return " ".join([*words, f"({entry['of']})"] if "of" in entry else words).rstrip()


def _fields(entry: Entry) -> Entry:
    """Return what is measured of a step besides its kind."""
    return {name: text for name, text in entry.items() if name not in _NOT_MEASURED}
