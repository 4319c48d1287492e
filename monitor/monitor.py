"""EL3: receives every SMC first; the caller's world decides which functions exist.

Concurrency: PEs call in parallel; one lock guards the GPT, from the check of a transition to the
end of its effects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import urandom
from threading import Lock
from typing import Final

from monitor import trng
from monitor.attestation import Answer, AttestationServices, refuse
from monitor.gpt import GranuleProtectionTable
from monitor.hes import FirmwareImage, Hes
from monitor.layout import DramLayout
from monitor.policy import moves_of
from monitor.protocols import Machine, Mailbox, Rmm
from monitor.psci import Power, Psci
from pyvmm.arch import rmmd
from pyvmm.arch.bits import MASK64
from pyvmm.arch.events import EventStream, GptChange, Smc, WorldSwitch
from pyvmm.arch.gpt import Gpi, gpi_of
from pyvmm.arch.islet import IsletRmiFid
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE, Pas
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.arch.rmmd import RmmdError, RmmdFid
from pyvmm.arch.smccc import (
    FID_MASK,
    UNKNOWN,
    VERSION_1_2,
    SmcccFid,
    call_series,
    registers_after,
    standard_secure_fid,
)

#: What the RMM serves; 0x18F is RMI_REQ_COMPLETE: not the host's.  RMI 2.0 has the second range.
RMI: Final = (
    *map(standard_secure_fid, (*range(0x150, 0x18F), *range(0x1D0, 0x220))),
    *IsletRmiFid,
    *DebugRmiFid,
)
SECRET = frozenset({RmmdFid.ISLET_GET_VHUK})  # their results must not appear in a trace
REALM_MOVES = moves_of(Pas.REALM)
OK: Answer = (0,)

#: Performs a function of EL3: takes PE, function id and x0..; returns the results.
Service = Callable[[int, int, Sequence[int]], Answer]
#: Performs it several times at once: takes PE, x0.. and their steps, and the number of times;
#: returns how many it performed, none if one of them might fail.
SeriesService = Callable[[int, Sequence[int], Sequence[int], int], int]


class Conduit:
    """The SMC instruction of one security state: the only access of its software to EL3."""

    __slots__ = ("_events", "_security", "_series", "_services")

    def __init__(
        self,
        events: EventStream,
        security: Pas,
        services: Mapping[int, Service],
        series: Mapping[int, SeriesService],
    ) -> None:
        """``services`` are the functions that exist for this state, by their ids."""
        self._events = events
        self._security = security
        self._services = services
        self._series = series

    def smc(self, pe: int, args: Sequence[int]) -> Answer:
        """Call EL3 on a PE with x0.. = ``args``; return x0..; other registers are unchanged."""
        fid = args[0] & FID_MASK
        results = self._services.get(fid, _unknown)(pe, fid, args)
        if self._events.listener is not None:
            shown = results[:1] if fid in SECRET else results
            self._events.listener(Smc(pe, self._security, tuple(args), shown))
        return registers_after(args, results)

    def smc_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int
    ) -> tuple[int, Answer]:
        """Call EL3 up to ``count`` times, until a call fails; see ``call_series``.

        Whoever listens sees each call.
        """
        is_seen = self._events.listener is not None
        several = None if is_seen else self._series.get(args[0] & FID_MASK)
        return call_series(self.smc, pe, args, steps, count, several)


def _unknown(_pe: int, _fid: int, _args: Sequence[int]) -> Answer:
    return UNKNOWN


def _version(_pe: int, _fid: int, _args: Sequence[int]) -> Answer:
    return (VERSION_1_2,)


class Monitor:
    """The software at EL3."""

    def __init__(
        self,
        machine: Machine,
        events: EventStream | None = None,
        mailbox: Mailbox | None = None,
        *,
        signs_at_once: bool = False,
    ) -> None:
        """Build the GPT and enable the check; the RMM boots later.

        Without a mailbox, nothing is measured and attestation is not available.
        ``signs_at_once``: tokens are signed without a thread, so that a run can be repeated.
        """
        self.layout = DramLayout.of(machine.dram_base, machine.dram_size)
        self._first_pa, self._end_pa = self.layout.dram_base, self.layout.rmm_base
        self._machine = machine
        self._events = events or EventStream()
        self._gpt_lock = Lock()
        self.gpt = GranuleProtectionTable(machine.memory(Pas.ROOT), self.layout)
        self._realm = machine.memory(Pas.REALM)
        self._hes = Hes(mailbox, self._events) if mailbox is not None else None
        self._attestation = (
            AttestationServices(
                self._realm, self.layout.shared_pa, self._hes, signs_at_once=signs_at_once
            )
            if self._hes is not None
            else None
        )
        self._services: dict[Pas, dict[int, Service]] = {
            Pas.NS: {SmcccFid.SMCCC_VERSION: _version},  # and RMI, once the RMM has booted
            Pas.REALM: self._realm_services(),
            Pas.SECURE: {},
            Pas.ROOT: {},
        }
        self._series: dict[Pas, dict[int, SeriesService]] = {pas: {} for pas in Pas}
        for fid, move in REALM_MOVES.items():
            self._series[Pas.REALM][fid] = self._moves(*move)
        machine.set_gpt(self.gpt.base_pa, self.gpt.gpccr)

    def conduit(self, security: Pas) -> Conduit:
        """Return the conduit for the software of one security state."""
        return Conduit(self._events, security, self._services[security], self._series[security])

    def connect_power(self, power: Power) -> None:
        """Serve PSCI to the normal world, whose PEs ``power`` turns on and off; random numbers."""
        layout = self.layout
        end = layout.dram_base + layout.ns_size
        psci = Psci(power, self._machine.num_pes, lambda pa: layout.dram_base <= pa < end)
        self._services[Pas.NS] |= {**psci.services, **trng.services(urandom)}

    # --- boot -----------------------------------------------------------------------------

    def measure(self, images: Iterable[FirmwareImage]) -> None:
        """Have the HES measure the images that run after EL3, and lock their slots.

        Raises: OSError if the HES has ended or refuses.
        """
        if self._hes is not None:
            for image in images:
                self._hes.measure(image)

    def boot(self, rmm: Rmm) -> int:
        """Boot the RMM on every PE; return its status.

        If the status is not 0, later RMI calls are unknown functions.
        """
        self._realm.write(self.layout.shared_pa, self._boot_manifest())
        num_pes = self._machine.num_pes
        for cpu in range(num_pes):
            status = rmm.boot(cpu, rmmd.INTERFACE_VERSION, num_pes, self.layout.shared_pa)
            if status != 0:
                return status
        self._services[Pas.NS] |= dict.fromkeys(RMI, self._entry(rmm))
        self._series[Pas.NS] |= dict.fromkeys(RMI, rmm.handle_series)
        return 0

    def _boot_manifest(self) -> bytes:
        """Describe the platform: one bank of DRAM, no console."""
        banks_pa = self.layout.shared_pa + rmmd.BANKS_OFFSET
        bank = rmmd.DramBank.of(base=self.layout.dram_base, bank_size=self.layout.ns_size)
        words = (1, banks_pa, self.layout.dram_base, self.layout.ns_size)
        manifest = rmmd.BootManifest.of(
            version=rmmd.MANIFEST_VERSION,
            dram_num_banks=1,
            dram_banks=banks_pa,
            dram_checksum=-sum(words) & MASK64,
        )
        manifest.data[rmmd.BANKS_OFFSET : rmmd.BANKS_OFFSET + bank.size] = bank.data
        return bytes(manifest)

    # --- SMC routing ----------------------------------------------------------------------

    def _realm_services(self) -> dict[int, Service]:
        """Return what exists for the RMM."""
        services: dict[int, Service] = {RmmdFid.EL3_FEATURES: self._features}
        services |= {fid: self._move(*move) for fid, move in REALM_MOVES.items()}
        if self._attestation is not None:
            services |= self._attestation.services
        return services

    def _entry(self, rmm: Rmm) -> Service:
        """Return the service that has the RMM perform a command of the host."""
        events, handle = self._events, rmm.handle

        def enter_realm_world(pe: int, fid: int, args: Sequence[int]) -> Answer:
            listener = events.listener
            if listener is None:
                return handle(pe, fid, args[1:])
            listener(WorldSwitch(pe, Pas.NS, Pas.REALM))
            results = handle(pe, fid, args[1:])
            listener(WorldSwitch(pe, Pas.REALM, Pas.NS))
            return results

        return enter_realm_world

    def _features(self, _pe: int, _fid: int, args: Sequence[int]) -> Answer:
        """Return a feature register; only register 0 exists: whether tokens can be signed."""
        if any(args[1:2]):
            return refuse(RmmdError.INVAL)
        return (RmmdError.OK, 0 if self._attestation is None else rmmd.FEATURE_TOKEN_SIGN)

    # --- granules -------------------------------------------------------------------------

    def _move(self, old: Pas, new: Pas) -> Service:
        """Return the service that moves the granule at x1 from one PAS to another.

        Before the new owner can use it, no PE can reach it as ``old`` any longer.  It then reads
        as zeros: its contents in ``new`` were dropped when it last left that PAS.
        """
        was, becomes = int(gpi_of(old)), int(gpi_of(new))

        def move(_pe: int, _fid: int, args: Sequence[int]) -> Answer:
            pa = args[1] if len(args) > 1 else 0
            if pa & GRANULE_OFFSET or not self._first_pa <= pa < self._end_pa:
                return refuse(RmmdError.BAD_ADDR)
            with self._gpt_lock:
                if not self.gpt.move(pa, was, becomes):
                    return refuse(RmmdError.BAD_PAS)
                self._machine.tlbi_pa(pa, GRANULE_SIZE)
                self._machine.punch(old, pa, GRANULE_SIZE)
            if self._events.listener is not None:
                self._events.listener(GptChange(pa, GRANULE_SIZE, old, new))
            return OK

        return move

    def _moves(self, old: Pas, new: Pas) -> SeriesService:
        """Return the service that moves granules in a row, if all of them may move."""
        was, becomes = int(gpi_of(old)), int(gpi_of(new))

        def move(_pe: int, args: Sequence[int], steps: Sequence[int], count: int) -> int:
            if steps[1:2] != (GRANULE_SIZE,):
                return 0
            pa, size = args[1], count * GRANULE_SIZE
            if pa & GRANULE_OFFSET or not self._first_pa <= pa <= self._end_pa - size:
                return 0
            with self._gpt_lock:
                if not self.gpt.move_row(pa, was, becomes, count):
                    return 0
                self._machine.tlbi_pa(pa, size)
                self._machine.punch(old, pa, size)
            return count

        return move

    def gpi(self, pa: int) -> Gpi:
        """Return the GPI of a granule of DRAM."""
        return self.gpt.gpi(pa)

    def count_granules(self) -> dict[Pas, int]:
        """Return how many granules each PAS currently has."""
        with self._gpt_lock:
            counts = self.gpt.count()
        return {pas: counts[gpi_of(pas)] for pas in Pas}

    def leak_check(self) -> list[int]:
        """Return the granules that are not Non-secure although they are not reserved."""
        with self._gpt_lock:
            end = self.layout.rmm_base
            return list(self.gpt.granules_not(gpi_of(Pas.NS), self.layout.dram_base, end))
