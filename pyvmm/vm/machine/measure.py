"""The initial measurement (RIM) of a realm that is never run, and the log of its steps.

The real RMM builds the realm as for a run, but no vCPU is started: so the measurement is correct by
construction, and the RMM reports each step.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Final, TypeGuard

import msgspec

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

#: One step of a realm's construction in a log: values by field name.
Entry = dict[str, str]

#: Measured parameters that depend on the host, each with its flag in RmiRealmParams.
_HOST_PARAMETERS: Final = {
    "num_bps": 0,
    "num_wps": 0,
    "sve_vl": RealmFlags.SVE,
    "pmu_num_ctrs": RealmFlags.PMU,
}
_MAX_PARAMETER: Final = 63
_MAX_LOG_SIZE: Final = 1 << 30
#: Members of an entry that are not fields of the step.
_NOT_MEASURED: Final = frozenset({"step", "of", "rim"})


class RealmPlan:
    """A realm to measure.

    Only its payload needs memory, ``memory_size`` bytes of it: the rest of its RAM is declared but
    never touched.

    Raises:
        UserError: it is not a realm, or its payload cannot be read.
    """

    def __init__(self, options: VmOptions) -> None:
        if options.realm is None:
            raise UserError("only a realm is measured: add --realm")
        self._realm = replace(options.realm, metadata=b"")  # metadata are made for a known RIM
        config = make_config(options)
        dtb = config.segments[-1]  # the last of the payload, of whole granules
        self.memory_size = dtb.ipa + len(dtb.data) - config.ram_base
        self._config = replace(config, backed_size=self.memory_size)

    def measure(self, platform: Platform) -> list[RimExtension]:
        """Build the realm; return the measured steps, of which the last has the RIM.

        The platform cannot be used again: destroying the realm would take as long as building it.
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
        """Return the steps as entries of a log; those with data name their part of the payload."""
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
    """Parse NAME=N,...: members of RmiRealmParams that depend on the host.

    Raises:
        UserError: an unknown name, or a number out of range.
    """
    parameters = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        if name not in _HOST_PARAMETERS or not value.isdecimal():
            raise UserError(f"--host {word}: give {'=N,'.join(_HOST_PARAMETERS)}=N")
        if int(value[:9]) > _MAX_PARAMETER:
            raise UserError(f"--host {word}: the limit is {_MAX_PARAMETER}")
        parameters[name] = int(value)
    return parameters


def on_host(create: RimExtension, parameters: dict[str, int]) -> RimExtension:
    """Return the first step of a construction as on a host with other parameters."""
    fields = dict(create.fields)
    flags = RealmParams.of(**fields).flags
    for name in parameters:
        flags |= _HOST_PARAMETERS[name]
    return msgspec.structs.replace(
        create, fields=tuple({**fields, "flags": flags, **parameters}.items())
    )


# --- logs -------------------------------------------------------------------------------------


def read_log(path: Path) -> list[Entry]:
    """Read the log that `pyvmm measure --log --json` wrote.

    Raises:
        UserError: it cannot be read, or is not such a log.
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
    raise UserError(
        f"{path} is not a measurement log: give the output of pyvmm measure --log --json"
    )


def _is_entry(entry: Json) -> TypeGuard[Entry]:
    return (
        isinstance(entry, dict)
        and "step" in entry
        and all(isinstance(value, str) for value in entry.values())
    )


def first_difference(
    one: Sequence[Entry], other: Sequence[Entry]
) -> tuple[int, Entry | None, Entry | None] | None:
    """Return the number and both versions of the first step that differs in the measurement."""
    for number, (left, right) in enumerate(zip_longest(one, other)):
        if left is None or right is None or _fields(left) != _fields(right):
            return number, left, right
    return None


def format_entry(entry: Entry) -> str:
    """Return an entry as one line of text."""
    words = [f"{entry['step']:<12}", *(f"{n}={text}" for n, text in _fields(entry).items())]
    return " ".join([*words, f"({entry['of']})"] if "of" in entry else words).rstrip()


def _fields(entry: Entry) -> Entry:
    """Return the measured fields of a step, without its kind."""
    return {name: text for name, text in entry.items() if name not in _NOT_MEASURED}
