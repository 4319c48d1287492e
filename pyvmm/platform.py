"""The composition root: one machine, its firmware, and the hypervisor half of the normal world.

The only module that imports every world.  What it hands on is the waists: the host gets the SMC
conduit of the Non-secure state and the view of Non-secure memory, never an object of the Monitor
or the RMM.
"""

import errno
import json
from collections.abc import Iterable
from typing import Final

from hes import image
from monitor.hes import FirmwareImage, Hes
from monitor.monitor import Monitor
from pyvmm import __version__
from pyvmm.arch import rmmd
from pyvmm.arch.errors import UserError
from pyvmm.arch.events import Event, EventStream, RimExtension
from pyvmm.arch.pas import GRANULE_SIZE, Pas
from pyvmm.arch.rmi import RealmParams, RecParams
from pyvmm.core import Clock, Machine
from pyvmm.host.allocator import Allocator
from pyvmm.host.guest import Bus, Guest, GuestConfig, RealmOptions
from pyvmm.host.machine import Usage
from pyvmm.host.normal_vm import NormalVm
from pyvmm.host.realm import Realm
from pyvmm.host.vgic import Vgic
from pyvmm.root_of_trust import BootEvent, RootOfTrust, no_realm
from pyvmm.token.generations import Generation
from rmm.measurement import Measurements
from rmm.rmi import REVISIONS
from rmm.rmm import Rmm

GIB: Final = 1 << 30
MIB: Final = 1 << 20
DRAM_BASE: Final = GIB

#: Measurement slots of what EL3 measures, as the RD-V3 platform has them.
HW_CONFIG_SLOT: Final = 12
RMM_SLOT: Final = 14


def dram_size(ram_size: int) -> int:
    """Return the DRAM (bytes) for a guest of ``ram_size``.

    Besides the RAM there are tables, and up to 1 GiB goes into its alignment.  DRAM is sparse: what
    nobody touches costs nothing.
    """
    return (ram_size + ram_size // 64 + 2 * GIB + 64 * MIB) & -(2 * MIB)


def replay(steps: Iterable[RimExtension]) -> list[RimExtension]:
    """Do the RMM's arithmetic over the steps of a realm's construction once more.

    ValueError if that is no construction: it has no REALM_CREATE, or that is not the first step.
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
                params = RealmParams.of(**fields)
                started = Measurements(step.rd, params, EventStream(listener))
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


def boot_images(clock: Clock) -> list[FirmwareImage]:
    """Return what EL3 measures: the platform's configuration and the RMM as it is installed.

    DRAM and the number of PEs are the guest's and no matter of trust: they are not part of it, so
    that a platform's reference values are the same for all guests.
    """
    config = {
        "clock": clock.name.lower(),
        "dram-base": DRAM_BASE,
        "granule": GRANULE_SIZE,
        "rmm-el3-interface": rmmd.INTERFACE_VERSION,
    }
    images = (
        (HW_CONFIG_SLOT, "HW_CONFIG", json.dumps(config, sort_keys=True).encode()),
        (RMM_SLOT, "RMM", image.pack(image.installation(), image.RMM_FILES)),
    )
    return [
        FirmwareImage(slot, sw_type, __version__, image.SIGNER_ID, data)
        for slot, sw_type, data in images
    ]


def boot_log(root_of_trust: RootOfTrust, clock: Clock = Clock.REAL) -> list[BootEvent]:
    """Measure a boot without a machine; return the log of it.

    Raises:
        UserError: the HES is gone, or has nothing to attest with.
    """
    root_of_trust.power_on()
    try:
        hes = Hes(root_of_trust.mailbox)
        for firmware in boot_images(clock):
            hes.measure(firmware)
    except OSError as error:
        raise no_realm(error) from None
    return root_of_trust.log()


class Platform:
    """A machine with its Monitor and RMM, ready to make guests; without a HES it cannot attest.

    Raises:
        UserError: the host has not the memory, or the HES is not to be had.
    """

    def __init__(
        self,
        ram_size: int,
        num_cpus: int,
        events: EventStream | None = None,
        clock: Clock = Clock.REAL,
        root_of_trust: RootOfTrust | None = None,
    ) -> None:
        self.events = events or EventStream()
        try:
            self.machine = Machine(DRAM_BASE, dram_size(ram_size), num_cpus, clock)
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise  # told with all others of that kind
            raise UserError(
                f"no memory for a guest of {ram_size // MIB}M ({error.strerror}): give less with -m"
            ) from error
        self._monitor = Monitor(
            self.machine, self.events, root_of_trust.mailbox if root_of_trust else None
        )
        if root_of_trust is not None:
            root_of_trust.power_on()
            try:
                self._monitor.measure(boot_images(clock))
            except OSError as error:
                raise no_realm(error) from None
        generation = root_of_trust.generation if root_of_trust else Generation.G1
        el3 = self._monitor.conduit(Pas.REALM)
        self._rmm = Rmm(self.machine, el3, REVISIONS, self.events, generation)
        self._monitor.boot(self._rmm)
        if root_of_trust is not None and self._rmm.attestation is None:
            raise no_realm(OSError("it gave the RMM no platform token"))
        self._memory = self.machine.memory(Pas.NS)
        layout = self._monitor.layout
        self._allocator = Allocator(layout.dram_base, layout.ns_size)

    def new_guest(
        self, config: GuestConfig, bus: Bus, vgic: Vgic, realm: RealmOptions | None
    ) -> Guest:
        """Make a guest: a realm if there are options for one, else a normal VM."""
        if realm is None:
            return NormalVm(
                self.machine, self._memory, self._allocator, bus=bus, vgic=vgic, config=config
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
        )

    def usage(self) -> Usage:
        """Say what the machine has done so far and what it takes; any thread."""
        machine = self.machine
        return Usage(
            tuple(machine.pe(index).instructions for index in range(machine.num_pes)),
            self._monitor.count_granules(),
            {pas: machine.resident(pas) for pas in Pas},
        )

    def rim(self) -> bytes:
        """Return the initial measurement of the realm; empty if there is none.

        No host gets it from an RMM; but it follows from what the host has given: it is no secret.
        """
        return next((realm.measurements.values[0] for realm in self._rmm.realms.values()), b"")

    def leak_check(self) -> list[int]:
        """Return the granules that are not Non-secure again although their realm is gone."""
        return self._monitor.leak_check()
