"""A realm as its host sees it: built, run and destroyed only through RMI.

The order of construction is fixed, so that the realm's initial measurement follows from the
configuration: create the realm; declare all RAM; load the payload by ascending IPA, measured;
create the boot REC, then the others; activate.  Spec: DEN0137 1.0, "Realm creation"; the measured
order is that of the Realm VM specification.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.gic import mpidr_of
from pyvmm.arch.islet import IsletRmiFid
from pyvmm.arch.machine import GuestRegisters, PeContext, PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.arch.rmi import (
    REC_CREATE_NUM_GPRS,
    RPV_SIZE,
    RealmFlags,
    RealmParams,
    RecCreateFlags,
    RecParams,
    RmiFid,
    RmiStatus,
    rec_mpidr,
)
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.arch.stage2 import PAGE_LEVEL, level_size, num_start_tables
from pyvmm.host.allocator import Allocator
from pyvmm.host.debug import DebugFault, DebugPort
from pyvmm.host.dma import SharedMemory
from pyvmm.host.guest import (
    REALM_IS_CLOSED,
    Bus,
    GuestConfig,
    GuestState,
    Outcome,
    Progress,
    RealmOptions,
    Segment,
)
from pyvmm.host.machine import Firmware
from pyvmm.host.realm_debug import RealmDebug
from pyvmm.host.realm_memory import RealmMemory
from pyvmm.host.rec import Rec
from pyvmm.host.rmi import Rmi, RmiFailed
from pyvmm.host.rmi_1_0 import Rmi10
from pyvmm.host.rmi_2_0 import Rmi20
from pyvmm.host.turns import Turns, make_vcpus
from pyvmm.host.vcpu import VcpuGuest
from pyvmm.host.vgic import Vgic

MIN_IPA_BITS: Final = 32  # of the protected half
NUM_BREAKPOINTS: Final = 1  # minus one; measured, so not taken from the machine
NUM_WATCHPOINTS: Final = 1
MPIDR_AFFINITY: Final = 0xFF_00FF_FF0F  # the bits by which the RMM finds a REC
PAGES_PER_STEP: Final = 64  # of the payload, between two reports of progress


@dataclass(frozen=True, slots=True)
class Geometry:
    """The IPA space of a realm: its width, its start level and the bit of the alias."""

    ipa_bits: int
    start_level: int
    num_start_tables: int

    @classmethod
    def of(cls, ram_end: int) -> "Geometry":
        """Choose the narrowest space that can contain RAM twice, with as few levels as possible.

        Start tables are concatenated for it, as the Realm VM specification requires: the levels
        affect the measurement.
        """
        ipa_bits = max(MIN_IPA_BITS, (ram_end - 1).bit_length()) + 1
        counts = ((level, num_start_tables(ipa_bits, level)) for level in range(PAGE_LEVEL, -1, -1))
        return cls(ipa_bits, *next((level, count) for level, count in counts if count))

    @property
    def alias(self) -> int:
        """The top bit: set in an unprotected IPA."""
        return 1 << self.ipa_bits - 1


class Realm(VcpuGuest):
    """A guest whose memory and registers are hidden from the host; a ``Guest``."""

    def __init__(
        self,
        firmware: Firmware,
        memory: PhysicalMemory,
        allocator: Allocator,
        *,
        bus: Bus,
        vgic: Vgic,
        config: GuestConfig,
        kick: Callable[[int], None],
        options: RealmOptions | None = None,
        vmid: int = 1,
        interfaces: Sequence[PeContext] = (),
        turns: Turns | None = None,
    ) -> None:
        """Reserve the memory; ``build`` or ``start`` builds the realm.

        ``kick`` interrupts a PE (a running REC exits).  RMI 1.0 needs ``vmid``, RMI 2.0
        ``interfaces``: ICH_*_EL2 of each PE.  MemoryError if DRAM is short.
        """
        self._options = options or RealmOptions()
        self._rmi: Rmi = (
            Rmi20(firmware, memory, allocator)
            if self._options.revision == VERSION_2_0
            else Rmi10(firmware, memory, allocator, vmid)
        )
        self._interfaces = interfaces
        self._ns = memory
        self._allocator = allocator
        self._bus = bus
        self._vgic = vgic
        self._config = config
        self.geometry = Geometry.of(config.ram_end)
        self._memory = RealmMemory(
            self._rmi,
            memory,
            allocator,
            ram_base=config.ram_base,
            ram_size=config.ram_size if config.backed_size is None else config.backed_size,
            alias=self.geometry.alias,
            start_level=self.geometry.start_level,
        )
        self._vcpus = make_vcpus(config.num_cpus, self._run, kick, vgic, turns)
        self._rd: int | None = None
        self._delegated: list[int] = []  # granules of the RD, start tables and RECs
        self._run_granules: list[int] = []
        self._recs: list[Rec] = []
        self._debug = self._make_debug() if self._options.is_debuggable else None
        self._rec_of = {mpidr_of(cpu) & MPIDR_AFFINITY: cpu for cpu in range(config.num_cpus)}

    # --- Guest ----------------------------------------------------------------------------

    @property
    def dma(self) -> SharedMemory:
        """The RAM that the realm shares."""
        return self._memory.dma

    def release(self, ipa: int, size: int) -> None:
        """Refuse: only the realm itself can give up a page (RSI_IPA_STATE_SET)."""
        del size
        raise GranuleProtectionFault(ipa, Pas.REALM)

    def _build(self, progress: Progress | None) -> None:
        """Build the realm and load the payload, up to state NEW.

        Raises:
            RmiFailed: the RMM refused it.
            UserError: the RMM refused the metadata.
        """
        self._check_rmm()
        self._create()
        if self._debug is not None:
            self._rmi.call(0, DebugRmiFid.RMI_PYVMM_DEBUG_ALLOW, self._rd or 0)
        if self._options.metadata:
            self._set_metadata(self._options.metadata)
        self._memory.init_ripas(self._config.ram_end)
        self._load(self._config.segments, progress)
        for cpu in range(self._config.num_cpus):
            self._create_rec(cpu)

    def debug_port(self) -> DebugPort:
        """Return the port for a debugger, if the realm allows it."""
        if self._debug is None:
            raise UserError(REALM_IS_CLOSED)
        return self._debug

    def _last_registers(self, cpu: int) -> GuestRegisters | None:
        if self._debug is not None:
            with suppress(DebugFault):  # its last exit is not completed yet
                return self._debug.registers(cpu)
        return None

    def save(self) -> GuestState:
        """Refuse: the architecture gives a host neither registers nor memory of a realm."""
        raise UserError(
            "a realm cannot be saved: its registers and memory are hidden from its host, and RMM"
            " 1.0 has no call that would export them"
        )

    def used_memory(self) -> Iterator[tuple[int, int]]:
        """Yield nothing: the host cannot see what a realm uses."""
        return iter(())

    def load(self, state: GuestState) -> None:
        """Refuse, as `save` does."""
        del state
        self.save()

    def send_serror(self, cpu: int) -> None:
        """Refuse: RMM 1.0 has no call for it."""
        del cpu
        raise UserError("a host cannot send a realm an SError (RMM 1.0): stop it instead")

    def close(self) -> None:
        """Stop the vCPUs, wait, destroy the realm, and free every granule."""
        self._vcpus.finish(Outcome.STOPPED)
        try:
            self._vcpus.wait()
        finally:
            self._destroy()

    def _run(self, cpu: int) -> None:
        self._recs[cpu].run()

    # --- building -------------------------------------------------------------------------

    def _check_rmm(self) -> None:
        ipa_bits, num_counters = self._rmi.begin()
        if self.geometry.ipa_bits > ipa_bits:
            raise MemoryError(f"the RMM cannot give a realm {self.geometry.ipa_bits} IPA bits")
        if self._config.num_counters > num_counters:
            raise UserError(
                f"the RMM gives a realm {num_counters} PMU counters, not"
                f" {self._config.num_counters}: give fewer with --pmu-counters, or omit --pmu"
            )

    def _create(self) -> None:
        tables = self._delegate_range(self.geometry.num_start_tables)
        rd = self._delegate_range(1)
        params = RealmParams.of(
            s2sz=self.geometry.ipa_bits,
            num_bps=NUM_BREAKPOINTS,
            num_wps=NUM_WATCHPOINTS,
            flags=RealmFlags.PMU if self._config.num_counters else 0,
            pmu_num_ctrs=self._config.num_counters,
            hash_algo=self._rmi.hashes[self._options.measurement_algo],
            rpv=self._options.personalization.ljust(RPV_SIZE, b"\0"),
            rtt_base=tables,
            rtt_level_start=self.geometry.start_level,
            rtt_num_start=self.geometry.num_start_tables,
        )
        self._rmi.create_realm(rd, params)
        self._rd = rd
        self._memory.attach(rd)

    def _make_debug(self) -> RealmDebug:
        page_pa = self._allocator.allocate()
        self._run_granules.append(page_pa)
        return RealmDebug(self._vcpus, self._config.num_cpus, self._rmi, self._ns, page_pa)

    def _set_metadata(self, metadata: bytes) -> None:
        fid, mdg = IsletRmiFid.RMI_ISLET_REALM_SET_METADATA, self._delegate_range(1)
        page = metadata.ljust(GRANULE_SIZE, b"\0")
        try:
            self._rmi.call_with_page(page, fid, self._rd or 0, mdg)
        except RmiFailed as refusal:
            if refusal.status != RmiStatus.ERROR_INPUT:
                raise
            raise UserError("--metadata: not valid or not signed: create it again") from None

    def _activate(self) -> None:
        try:
            self._rmi.call(0, RmiFid.RMI_REALM_ACTIVATE, self._rd or 0)
        except RmiFailed as refusal:
            if refusal.status != RmiStatus.ERROR_REALM or not self._options.metadata:
                raise
            raise UserError(
                "--metadata: made for another realm: create it for the RIM of pyvmm measure"
            ) from None

    def _load(self, segments: Sequence[Segment], progress: Progress | None) -> None:
        """Load the payload, measured, through a few staging granules."""
        total = sum(len(each.data) for each in segments) // GRANULE_SIZE
        staging = self._allocator.allocate(PAGES_PER_STEP * GRANULE_SIZE)
        done = 0
        try:
            for ipa, pages in runs_of(segments):
                if progress is not None:
                    progress(done, total)
                self._ns.write(staging, pages)
                self._memory.create_data(ipa, staging, len(pages) // GRANULE_SIZE)
                done += len(pages) // GRANULE_SIZE
        finally:
            self._allocator.free(staging, PAGES_PER_STEP * GRANULE_SIZE)

    def _create_rec(self, cpu: int) -> None:
        rec_pa = self._delegate_range(1)
        params = RecParams.of(mpidr=rec_mpidr(cpu))
        if cpu == 0:
            params.flags = RecCreateFlags.RUNNABLE
            params.pc = self._config.entry
            params.gprs = (*self._config.args, *(0,) * (REC_CREATE_NUM_GPRS - 4))
        self._rmi.create_rec(self._rd or 0, rec_pa, params)
        run_pa = self._allocator.allocate()
        self._run_granules.append(run_pa)
        self._ns.zero(run_pa, GRANULE_SIZE)
        rec = Rec(
            cpu,
            rec_pa,
            run_pa,
            self._ns.view(run_pa, GRANULE_SIZE),
            interface=self._interfaces[cpu] if self._interfaces else None,
            rmi=self._rmi,
            memory=self._memory,
            bus=self._bus,
            vgic=self._vgic,
            vcpus=self._vcpus,
            alias=self.geometry.alias,
            find_rec=self._find_rec,
            debug=self._debug,
        )
        self._recs.append(rec)
        if self._debug is not None:
            self._debug.add(rec_pa)

    def _find_rec(self, mpidr: int) -> tuple[int, int] | None:
        cpu = self._rec_of.get(mpidr & MPIDR_AFFINITY)
        return None if cpu is None else (cpu, self._recs[cpu].rec_pa)

    def _delegate_range(self, count: int) -> int:
        """Delegate contiguous granules; record them for the end."""
        pa = self._allocator.allocate(count * GRANULE_SIZE, count * GRANULE_SIZE)
        self._rmi.delegate(0, pa, count)
        self._delegated += range(pa, pa + count * GRANULE_SIZE, GRANULE_SIZE)
        return pa

    # --- the end --------------------------------------------------------------------------

    def _destroy(self) -> None:
        """Undo the completed part of the construction, in reverse order."""
        if self._debug is not None:
            self._debug.close()
        if self._rd is not None:
            self._rmi.end_realm(self._rd)
            for rec in self._recs:
                self._rmi.destroy_rec(rec.rec_pa)
            self._recs.clear()
            self._memory.destroy()
            self._rmi.execute(RmiFid.RMI_REALM_DESTROY, self._rd)
            self._rd = None
        for granule in self._delegated:
            self._rmi.undelegate(0, granule)
            self._allocator.free(granule)
        self._delegated.clear()
        for granule in self._run_granules:
            self._allocator.free(granule)
        self._run_granules.clear()
        self._memory.close()


def dram_needed(ram_size: int, num_cpus: int) -> int:
    """Return the maximum Non-secure DRAM that a guest of this size needs, in bytes."""
    tables = 2 * (ram_size // level_size(2) + ram_size // level_size(1) + 8)
    return ram_size + level_size(2) + GRANULE_SIZE * (tables + 32 * num_cpus + 64)


def runs_of(segments: Sequence[Segment]) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield the payload as whole pages by ascending IPA, some at a time; gaps are zeros.

    Each item is an IPA and the contents of at most PAGES_PER_STEP pages from there on.
    Segments do not overlap; two of them may share a page.
    """
    page, ipa = bytearray(), -1  # an incomplete page
    for segment in sorted(segments, key=lambda each: each.ipa):
        data, start = memoryview(segment.data), segment.ipa
        while data:
            offset = start % GRANULE_SIZE
            if page and start - offset != ipa:
                yield ipa, bytes(page)
                page = bytearray()
            whole = 0 if offset else min(len(data) // GRANULE_SIZE, PAGES_PER_STEP)
            part = data[: whole * GRANULE_SIZE or GRANULE_SIZE - offset]
            if whole:
                yield start, part
            else:
                page, ipa = page or bytearray(GRANULE_SIZE), start - offset
                page[offset : offset + len(part)] = part
            data, start = data[len(part) :], start + len(part)
    if page:
        yield ipa, bytes(page)
