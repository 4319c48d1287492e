"""The composition root: one machine, its firmware, and the hypervisor half of the normal world.

The only module that imports every world.  It passes on narrow interfaces only: the host gets the
SMC conduit of the Non-secure state and the view of Non-secure memory, never an object of the
Monitor or the RMM.
"""

import errno
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

from hes import image
from monitor.hes import FirmwareImage, Hes
from monitor.monitor import Monitor
from monitor.protocols import Mailbox
from pyvmm import __version__
from pyvmm.arch import rmmd
from pyvmm.arch.engine import DEFAULT_ENGINE, Engine, NoGeneratedCodeError
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import Event, EventStream, RimExtension
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RealmParams, RecParams
from pyvmm.arch.rmi_revisions import BETA, VERSION_1_0, VERSION_2_0
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.arch.timer import SystemCounter
from pyvmm.core import Clock, Machine, confine_threads
from pyvmm.core.pauses import MachineWithPauses, Pauses
from pyvmm.core.turns import MachineInTurns
from pyvmm.host.allocator import Allocator
from pyvmm.host.el2 import PrivilegedSoftware
from pyvmm.host.guest import Bus, Guest, GuestConfig, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.normal_vm import NormalVm
from pyvmm.host.realm import Realm
from pyvmm.host.vgic import Vgic
from pyvmm.root_of_trust import BootEvent, RootOfTrust, no_realm
from pyvmm.token.generations import Generation
from pyvmm.vm.record.session import Session
from rmm.measurement import Measurements
from rmm.rmi2 import ALL_REVISIONS
from rmm.rmm import Rmm

if TYPE_CHECKING:
    from pyvmm.observe.observer import Observer
    from pyvmm.observe.probe import Probe

GIB: Final = 1 << 30
MIB: Final = 1 << 20
DRAM_BASE: Final = GIB

#: Slots for EL3's measurements, as on the RD-V3 platform.
HW_CONFIG_SLOT: Final = 12
RMM_SLOT: Final = 14
#: The RMM's version names the beta of RMI 2.0 that it serves: RMI_VERSION does not.
RMM_VERSION: Final = f"{__version__}+{BETA}"
_ZEROS: Final = bytes(GRANULE_SIZE)


def dram_size(ram_size: int) -> int:
    """Return the DRAM size (bytes) for a guest of ``ram_size``.

    Tables need memory besides the RAM, and its alignment takes up to 1 GiB.  DRAM is sparse:
    untouched memory costs nothing.
    """
    return (ram_size + ram_size // 64 + 2 * GIB + 64 * MIB) & -(2 * MIB)


def replay(steps: Iterable[RimExtension]) -> list[RimExtension]:
    """Repeat the RMM's computation over the steps of a realm's construction.

    ValueError if REALM_CREATE is missing or not the first step.
    """
    again: list[RimExtension] = []

    def listener(event: Event) -> None:
        if isinstance(event, RimExtension):
            again.append(event)

    started: Measurements | None = None
    for step in steps:
        fields = dict(step.fields)
        match (step.step, started, *fields.values()):
            case ("REALM_CREATE", None, *_):
                revision = fields.pop("rmi", VERSION_1_0)
                params = RealmParams.of(**fields)
                if isinstance(revision, int):
                    started = Measurements(step.rd, params, EventStream(listener), revision)
            case ("DEBUG", Measurements() as rim):
                rim.extend_debug()
            case ("RIPAS", Measurements() as rim, int(base), int(top)):
                rim.extend_ripas(base, top)
            case ("DATA", Measurements() as rim, int(ipa), int(flags), bytes(digest)):
                rim.extend_data(ipa, flags, digest)
            case ("REC", Measurements() as rim, *_):
                rim.extend_rec(RecParams.of(**fields))
            case _:
                raise ValueError(f"{step.step} as step {len(again)} of a realm's construction")
    return again


def boot_images(clock: Clock, features: Feature) -> list[FirmwareImage]:
    """Return the images that EL3 measures: the platform's configuration and the installed RMM.

    The configuration excludes DRAM size and number of PEs, which depend on the guest and do not
    affect trust, so that a platform's reference values are the same for all guests.
    """
    config = {
        "clock": clock.name.lower(),
        "cpu-features": sorted(each.name.lower() for each in features if each.name),
        "dram-base": DRAM_BASE,
        "granule": GRANULE_SIZE,
        "rmm-el3-interface": rmmd.INTERFACE_VERSION,
    }
    images = (
        (HW_CONFIG_SLOT, "HW_CONFIG", __version__, json.dumps(config, sort_keys=True).encode()),
        (RMM_SLOT, "RMM", RMM_VERSION, image.pack(image.installation(), image.RMM_FILES)),
    )
    return [
        FirmwareImage(slot, sw_type, version, image.SIGNER_ID, data)
        for slot, sw_type, version, data in images
    ]


def boot_log(root_of_trust: RootOfTrust, features: Feature = DEFAULT_FEATURES) -> list[BootEvent]:
    """Measure a boot without a machine; return its log.

    Raises:
        UserError: the HES has ended, or the platform cannot attest.
    """
    root_of_trust.power_on()
    try:
        hes = Hes(root_of_trust.mailbox)
        for firmware in boot_images(Clock.REAL, features):
            hes.measure(firmware)
    except OSError as error:
        raise no_realm(error) from None
    return root_of_trust.log()


M = TypeVar("M")


def _with_engine(engine: Engine | None, make: Callable[[Engine], M]) -> tuple[M, str]:
    """Return a machine and a notice for the user, who may not have chosen the engine."""
    try:
        return make(engine or DEFAULT_ENGINE), ""
    except NoGeneratedCodeError:
        if engine is not None:
            raise
    notice = "the host forbids generated code: the guest is interpreted and runs slower"
    return make(Engine.INTERP), notice


def digest_memory(machine: Machine, pas: Pas) -> bytes:
    """Return a digest of the content of a PAS; zeros do not count, in memory or not."""
    file, memory, digest, at = machine.memfd(pas), machine.buffer(pas), sha256(), 0
    while at < machine.dram_size:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only holes follow
            break
        end = os.lseek(file, at, os.SEEK_HOLE)
        for start in range(at, end, GRANULE_SIZE):
            granule = memory[start : start + GRANULE_SIZE]
            if granule != _ZEROS:
                digest.update(start.to_bytes(8, "little"))
                digest.update(granule)
        at = end
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Debuggable:
    """What a debugger of a replay needs of the machine."""

    pauses: Pauses
    probe: "Probe"


class RecordedMailbox:
    """A mailbox whose replies are recorded, or come from a record."""

    def __init__(
        self, mailbox: Mailbox | None, draw: Callable[[str, Callable[[], bytes]], bytes]
    ) -> None:
        self._mailbox = mailbox
        self._draw = draw

    def call(self, message: bytes) -> bytes:
        """Return the reply to a request; OSError if there was none."""

        def ask() -> bytes:
            assert self._mailbox is not None  # noqa: S101  only a replay has none, and never asks
            try:
                return self._mailbox.call(message)
            except OSError:
                return b""

        reply = self._draw("a reply of the HES", ask)
        if not reply:
            raise OSError("the HES has ended")
        return reply


class Platform:
    """A machine with its Monitor and RMM, ready to create guests; without a HES it cannot attest.

    Without ``engine`` it uses the default, or the interpreter where the host forbids generated
    code; then ``notice`` tells the user.

    Raises:
        UserError: the host has too little memory, or the HES is not available.
    """

    def __init__(
        self,
        ram_size: int,
        num_cpus: int,
        events: EventStream | None = None,
        clock: Clock = Clock.REAL,
        root_of_trust: RootOfTrust | None = None,
        features: Feature = DEFAULT_FEATURES,
        engine: Engine | None = None,
        session: Session | None = None,
    ) -> None:
        self.events = events or EventStream()
        self._turns = None if session is None else session.turns
        mailbox: Mailbox | None = getattr(root_of_trust, "mailbox", None)
        entropy = os.urandom
        try:
            size = dram_size(ram_size)
            if session is None:
                self.machine, self.notice = _with_engine(
                    engine,
                    lambda chosen: Machine(
                        DRAM_BASE, size, num_cpus, clock, features, engine=chosen
                    ),
                )
            else:
                kind = MachineInTurns if session.turns.has_thread else MachineWithPauses
                in_turns, self.notice = _with_engine(
                    engine,
                    lambda chosen: kind(DRAM_BASE, size, num_cpus, features, engine=chosen),
                )
                self.machine = session.turns.machine = in_turns
                entropy = session.outside.entropy
                mailbox = RecordedMailbox(mailbox, session.source.draw) if root_of_trust else None
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise  # reported with other errors of this kind
            raise UserError(
                f"{ram_size // MIB}M of memory for the guest: {error.strerror}: give less with -m"
            ) from error
        self._monitor = Monitor(
            self.machine, self.events, mailbox, signs_at_once=session is not None
        )
        if root_of_trust is not None:
            root_of_trust.power_on()
            try:
                self._monitor.measure(boot_images(clock, features))
            except OSError as error:
                raise no_realm(error) from None
        generation = root_of_trust.generation if root_of_trust else Generation.G1
        el3 = self._monitor.conduit(Pas.REALM)
        self._rmm = Rmm(self.machine, el3, ALL_REVISIONS, self.events, generation, entropy)
        self._monitor.boot(self._rmm)
        if root_of_trust is not None and self._rmm.attestation is None:
            raise no_realm(OSError("the HES gave the RMM no platform token"))
        for index in range(num_cpus):
            self.machine.pe(index).set_maintenance(True)  # what a host does when it boots
        self._memory = self.machine.memory(Pas.NS)
        layout = self._monitor.layout
        self._allocator = Allocator(layout.dram_base, layout.ns_size)

    @property
    def counter(self) -> SystemCounter:
        """The counter of the machine."""
        return SystemCounter(self.machine.counter, self.machine.counter_frequency)

    def new_guest(
        self, config: GuestConfig, bus: Bus, vgic: Vgic, realm: RealmOptions | None
    ) -> Guest:
        """Create a guest: a realm if its options are given, otherwise a normal VM.

        Software that is to own the machine is none, but has the same interface.
        """
        if config.owns_machine:
            return self._new_owner(config, bus, vgic)
        if realm is None:
            return NormalVm(
                self.machine,
                self._memory,
                self._allocator,
                bus=bus,
                vgic=vgic,
                config=config,
                turns=self._turns,
            )
        return Realm(
            self._monitor.conduit(Pas.NS),
            self._memory,
            self._allocator,
            bus=bus,
            vgic=vgic,
            config=config,
            kick=lambda cpu: self.machine.pe(cpu).kick(),
            options=realm,
            interfaces=[self.machine.pe(cpu).interface for cpu in range(config.num_cpus)]
            if realm.revision == VERSION_2_0
            else (),
            turns=self._turns,
        )

    def _new_owner(self, config: GuestConfig, bus: Bus, vgic: Vgic) -> Guest:
        layout = self._monitor.layout
        if config.ram_end > layout.dram_base + layout.ns_size or config.ram_base < DRAM_BASE:
            raise UserError(f"{config.ram_size // MIB}M of memory: give less with -m")
        owner = PrivilegedSoftware(
            self.machine,
            self._memory,
            self._monitor.conduit(Pas.NS),
            bus=bus,
            vgic=vgic,
            config=config,
            turns=self._turns,
        )
        self._monitor.connect_power(owner)
        return owner

    def observer(self, guest: Guest) -> "Observer":
        """Return an observer of the whole machine, which stops the guest for each picture."""
        from pyvmm.observe.observer import Observer  # noqa: PLC0415  few guests are observed

        gpt = self._monitor.gpt
        return Observer(
            self.machine,
            (gpt.base_pa, gpt.gpccr),
            self._rmm,
            still=guest.still,
            contexts=lambda: (
                guest.contexts if isinstance(guest, NormalVm | PrivilegedSoftware) else ()
            ),
        )

    def usage(self) -> Usage:
        """Return the machine's activity and memory use so far; may be called from any thread."""
        machine = self.machine
        return Usage(
            tuple(machine.pe(index).instructions for index in range(machine.num_pes)),
            self._monitor.count_granules(),
            {pas: machine.resident(pas) for pas in Pas},
        )

    def digests(self, guest: Guest) -> tuple[bytes, dict[str, bytes]]:
        """Return digests of the vCPUs' registers, and of the memory of each PAS.

        The vCPUs have ended, but the guest is not closed.
        """
        registers = sha256()
        for context in self._contexts(guest):
            registers.update(repr(self.machine.save_context(context)).encode())
        return registers.digest(), {
            pas.name.lower(): digest_memory(self.machine, pas) for pas in Pas
        }

    def _contexts(self, guest: Guest) -> Sequence[PeContext]:
        """Return the contexts of the vCPUs, in whatever world they are."""
        if isinstance(guest, NormalVm | PrivilegedSoftware):
            return guest.contexts
        return [rec.context for rec in sorted(self._rmm.recs.values(), key=lambda rec: rec.index)]

    def debuggable(self, guest: Guest) -> "Debuggable":
        """Return what a debugger of a replay needs, whatever the guest allows its host."""
        from pyvmm.observe.probe import Probe  # noqa: PLC0415  few replays are debugged

        assert isinstance(self.machine, MachineWithPauses)  # noqa: S101  the session asked for it
        return Debuggable(self.machine.pauses, Probe(self.machine, lambda: self._contexts(guest)))

    def rim(self) -> bytes:
        """Return the realm's initial measurement; empty for a normal VM.

        An RMM does not tell it to the host, but the host can compute it: it is not secret.
        """
        return next((realm.measurements.values[0] for realm in self._rmm.realms.values()), b"")

    @staticmethod
    def confine_threads(ruleset: int) -> None:
        """Make all threads of this process enter a Landlock ruleset; OSError if one cannot."""
        confine_threads(ruleset)

    def leak_check(self) -> list[int]:
        """Return the granules that are still not Non-secure after their realm was destroyed."""
        return self._monitor.leak_check()
