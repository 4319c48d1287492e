"""The RMM: its state, its boot, and the dispatch of the host's commands.

One lock guards the state.  A command holds it from its first check to its last effect.  A running
REC does not hold it, so other threads of the host may change the realm's tables meanwhile; every
change reaches the PEs through the machine's TLB invalidation before the command returns.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import count
from threading import Lock
from typing import Final

from pyvmm.arch.events import EventStream, RmiCall
from pyvmm.arch.gic import NUM_LRS
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.pmu import PMCR_EL0
from pyvmm.arch.rmi import RmiFeatureRegister0, RmiStatus
from pyvmm.arch.rmmd import BootError
from pyvmm.arch.smccc import FID_MASK, UNKNOWN
from pyvmm.token.generations import Generation
from rmm.attestation import Attestation
from rmm.boot import BootRefused, dram_banks
from rmm.commands import RmiCommand, before_activation
from rmm.el3 import El3Services
from rmm.errors import RmiError
from rmm.exit_record import ExitRecord
from rmm.granule import DELEGATED, GranuleTable
from rmm.operation import Operation
from rmm.protocols import El3, Machine
from rmm.realm import Entropy, Limits, Realm
from rmm.rec import Rec
from rmm.sealing import SealingKeys

_SUCCESS: Final = (int(RmiStatus.SUCCESS),)
MAX_SERIES: Final = 512  # commands at once, so that other PEs do not wait long
_PMU_OF_ITS_OWN: Final = 0xF  # PMUVer: not PMUv3
_PA_BITS: Final = (32, 36, 40, 42, 44, 48)  # by ID_AA64MMFR0_EL1.PARange; 52 needs FEAT_LPA2


class Rmm:
    """The Realm Management Monitor of one machine."""

    def __init__(
        self,
        machine: Machine,
        el3: El3,
        revisions: Mapping[int, Mapping[int, RmiCommand]],
        events: EventStream | None = None,
        token_generation: Generation = Generation.G1,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Connect the RMM, which serves no calls before ``boot``.

        ``revisions`` contains the RMI revisions to offer, by version number; each maps function ids
        to commands.  ``rmm.rmi.REVISIONS`` contains all revisions.
        """
        self.machine = machine
        self.el3 = el3
        self.events = events or EventStream()
        self.entropy = entropy
        self.attestation: Attestation | None = None  # None before boot or without EL3's support
        self.sealing: SealingKeys | None = None  # likewise
        self.tickets = count(1)
        self.lock = Lock()
        self.ns = machine.memory(Pas.NS)
        self.memory = machine.memory(Pas.REALM)
        self.exit_record = ExitRecord(machine)
        self.exit_record_2 = ExitRecord(machine, shows_interrupts=False)
        self.limits = read_limits(machine)
        self.feature_register_0 = feature_register_0(self.limits)
        self.granules = GranuleTable([(0, 0)], self.events)  # empty before boot
        self.realms: dict[int, Realm] = {}  # by the PA of the RD
        self.recs: dict[int, Rec] = {}  # by the PA of the REC
        self.operations: dict[int, Operation] = {}  # by the PA of the RD or REC
        self.revisions = revisions
        self.revision = min(revisions)
        self.is_active = False  # for RMI 2.0: configured and in use
        self.tracking_size = 0  # RmiRmmConfig.tracking_region_size
        self._num_cpus: int | None = None
        self._commands: Mapping[int, RmiCommand] = {}  # bound to this RMM; empty before boot
        self._token_generation = token_generation

    def boot(self, cpu: int, version: int, num_cpus: int, shared_pa: int) -> int:
        """Boot on one CPU; on the first, read the manifest at ``shared_pa`` in the Realm PAS.

        Returns: the status of RMM_BOOT_COMPLETE.
        Spec: TF-A, RMM-EL3 communication interface, "RMM boot".
        """
        with self.lock:
            try:
                if self._num_cpus != num_cpus:
                    self._cold_boot(cpu, version, num_cpus, shared_pa)
            except BootRefused as refusal:
                return refusal.status
            return BootError.OK if 0 <= cpu < num_cpus else BootError.CPU_ID_OUT_OF_RANGE

    def _cold_boot(self, cpu: int, version: int, num_cpus: int, shared_pa: int) -> None:
        if self._num_cpus is not None:
            raise BootRefused(BootError.CPUS_OUT_OF_RANGE)  # not the number at the first boot
        banks = dram_banks(self.memory, version, num_cpus, shared_pa)
        if not 0 <= cpu < num_cpus:
            raise BootRefused(BootError.CPU_ID_OUT_OF_RANGE)
        self.granules = GranuleTable(banks, self.events)
        self._num_cpus = num_cpus
        services = El3Services(self.el3, self.memory, shared_pa)
        self.sealing = SealingKeys.boot(services, cpu)
        self.attestation = Attestation.boot(services, self._token_generation, cpu)
        self.select(min(self.revisions))

    def handle(self, pe: int, fid: int, args: Sequence[int]) -> tuple[int, ...]:
        """Perform an RMI command of the host with x1.. = ``args``; return x0.."""
        with self.lock:
            command = self._commands.get(fid & FID_MASK)
            if command is None:
                return UNKNOWN
            arguments = args if len(args) == command.num_args else command.fit(args)
            try:
                if command.wants_pe:
                    outputs = command.function(pe, *arguments)
                else:
                    outputs = command.function(*arguments)
                results = _SUCCESS + outputs if outputs else _SUCCESS
            except RmiError as error:
                results = error.results
        if self.events.listener is not None:
            event = RmiCall(command.name, command.parameters, tuple(arguments), results)
            self.events.listener(event)
        return results

    def handle_series(self, pe: int, args: Sequence[int], steps: Sequence[int], count: int) -> int:
        """Perform a command several times at once: with x0.. = ``args``, then ``steps`` more, ...

        Returns how many times, each with success; 0 if nothing was done: perform it once.
        """
        try:
            with self.lock:
                command = self._commands.get(args[0] & FID_MASK)
                several = command.several if command is not None else None
                if command is None or several is None or several.steps != tuple(steps[1:]):
                    return 0
                fixed = (self, pe) if command.wants_pe else (self,)
                return several.function(*fixed, min(count, MAX_SERIES), *args[1:])
        except RmiError:
            return 0

    def select(self, revision: int) -> bool:
        """Serve the commands of a revision from now on.

        False, without a change, if it is unknown, or if there is a realm of another one, or an
        operation: what was made with one revision cannot be driven by another.
        """
        is_in_use = revision != self.revision and (self.realms or self.operations)
        if revision not in self.revisions or is_in_use:
            return False
        self.revision = revision
        self.set_active(self.is_active)
        return True

    def set_active(self, is_active: bool) -> None:
        """Set whether the RMM is activated, without which RMI 2.0 has few commands."""
        self.is_active = is_active
        commands = self.revisions[self.revision]
        served = commands if is_active else before_activation(commands)
        self._commands = {fid: command.of(self) for fid, command in served.items()}

    # --- helpers of the commands --------------------------------------------------------------

    def read_ns(self, pa: int, size: int) -> bytes:
        """Read the first ``size`` bytes of one of the host's granules, once.

        Raises: RmiError(ERROR_INPUT) if ``pa`` is not a granule's address, or the granule is not
        the host's: the GPT knows, which is in step with the granules' states.
        """
        if pa & GRANULE_OFFSET:
            raise RmiError(RmiStatus.ERROR_INPUT)
        try:
            return self.ns.read(pa, size)
        except GranuleProtectionFault:
            raise RmiError(RmiStatus.ERROR_INPUT) from None

    def realm(self, rd: int) -> Realm:
        """Return the realm of an RD; RmiError(ERROR_INPUT) if ``rd`` is not an RD."""
        realm = self.realms.get(rd)
        if realm is None:
            raise self._missing(rd)
        return realm

    def rec(self, pa: int) -> Rec:
        """Return the REC at ``pa``; RmiError(ERROR_INPUT) if there is none."""
        rec = self.recs.get(pa)
        if rec is None:
            raise self._missing(pa)
        return rec

    def _missing(self, pa: int) -> RmiError:
        return RmiError(RmiStatus.BLOCKED if pa in self.operations else RmiStatus.ERROR_INPUT)

    def release(self, pa: int) -> None:
        """Scrub a granule that is no longer used, and make it DELEGATED."""
        self.memory.zero(pa, GRANULE_SIZE)
        self.granules.move(pa, DELEGATED)

    def release_row(self, pa: int, count: int) -> None:
        """Release granules in a row, which are in the same state."""
        self.memory.zero(pa, count * GRANULE_SIZE)
        self.granules.move_row(pa, DELEGATED, count)


def read_limits(machine: Machine) -> Limits:
    """Read the machine's limits for realms from the ID registers."""
    mmfr0 = machine.id_register(3, 0, 0, 7, 0)
    mmfr1 = machine.id_register(3, 0, 0, 7, 1)
    dfr0 = machine.id_register(3, 0, 0, 5, 0)
    pa_range = min(mmfr0 & 0xF, len(_PA_BITS) - 1)
    return Limits(
        s2sz=_PA_BITS[pa_range],
        pa_range=pa_range,
        num_bps=dfr0 >> 12 & 0xF,
        num_wps=dfr0 >> 20 & 0xF,
        num_counters=_num_counters(machine, dfr0),
        vmid_bits=16 if mmfr1 >> 4 & 0xF == 2 else 8,
    )


def _num_counters(machine: Machine, dfr0: int) -> int:
    """Return the number of event counters, 0 without PMUv3."""
    has_pmu = dfr0 >> 8 & 0xF not in {0, _PMU_OF_ITS_OWN}
    return PMCR_EL0.N.decode(machine.id_register(3, 3, 9, 12, 0)) if has_pmu else 0


def feature_register_0(limits: Limits) -> RmiFeatureRegister0:
    """Return the limits as RMI_FEATURES reports them: no LPA2, no SVE."""
    return RmiFeatureRegister0.of(
        S2SZ=limits.s2sz,
        NUM_BPS=limits.num_bps,
        NUM_WPS=limits.num_wps,
        PMU_EN=limits.num_counters > 0,
        PMU_NUM_CTRS=limits.num_counters,
        HASH_SHA_256=1,
        HASH_SHA_512=1,
        GICV3_NUM_LRS=NUM_LRS - 1,
        MAX_RECS_ORDER=limits.max_recs_order,
    )
