"""The observer of one machine: every picture is taken while the guest stands still."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from pyvmm.arch.el1 import SCTLR_EL1
from pyvmm.arch.errors import UserError
from pyvmm.arch.gpt import Gpi, gpi_of
from pyvmm.arch.machine import PeContext
from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SHIFT, Pas
from pyvmm.arch.pictures import (
    AccessResult,
    CodePicture,
    Difference,
    GicPicture,
    GptPicture,
    GranulePicture,
    PePicture,
    RecordPicture,
    Region,
    RttPicture,
    Stage1Picture,
    TimerPicture,
    TlbPicture,
    WalkPicture,
)
from pyvmm.core import Machine
from pyvmm.observe import pe as pes
from pyvmm.observe import rmm as books
from pyvmm.observe.access import try_accesses
from pyvmm.observe.caches import code_picture, tlb_picture
from pyvmm.observe.gpt import Gpt
from pyvmm.observe.memory import Dram
from pyvmm.observe.stage1 import stage1_picture
from pyvmm.observe.walk import Walk, walk_ipa, walk_va
from rmm.realm import Realm
from rmm.rec import Rec
from rmm.rmm import Rmm

_MAX_DIFFERENCES: Final = 64
#: The address spaces that each world may use.
_WORLDS: Final = {
    "normal world, devices": (Pas.NS,),
    "realm world": (Pas.NS, Pas.REALM),
    "EL3": tuple(Pas),
}


class Observer:
    """Reads a machine and its firmware; changes nothing.

    Args:
        machine: the machine.
        gpt: the address of the GPT (GPTBR_EL3), and GPCCR_EL3.
        rmm: its RMM.
        still: returns a context in which no PE runs.
        contexts: returns the contexts of a normal VM's vCPUs; empty for a realm.

    Any thread may call the methods, except a vCPU's.  Raises UserError for what does not exist.
    """

    def __init__(
        self,
        machine: Machine,
        gpt: tuple[int, int],
        rmm: Rmm,
        still: Callable[[], AbstractContextManager[None]],
        contexts: Callable[[], Sequence[PeContext]],
    ) -> None:
        self._machine = machine
        self._rmm = rmm
        self._still = still
        self._contexts_of_vm = contexts
        self._dram = Dram(machine)
        self._gpt = Gpt(self._dram, *gpt)

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Stop the guest, then the RMM: nothing changes meanwhile."""
        with self._still(), self._rmm.lock:
            yield

    # --- memory ---------------------------------------------------------------------------

    def gpt(self) -> GptPicture:
        """Return the GPT, and the RMM's use of the granules."""
        with self._stopped():
            regions = [
                Region(hex(run.base), run.size, run.gpi.name, run.form) for run in self._gpt.runs()
            ]
            uses = list(books.uses(self._rmm))
            expected = books.expected_gpis(self._rmm, Gpi.NS, Gpi.REALM, Gpi.NO_ACCESS)
            differences = list(self._differences(expected))
        granules, states = Counter[str](), Counter[str]()
        for region in regions:
            granules[region.gpi] += region.size >> GRANULE_SHIFT
        for use in uses:
            states[use.state] += use.size >> GRANULE_SHIFT
        return GptPicture(
            table=hex(self._gpt.base_pa),
            gpccr=hex(self._gpt.gpccr),
            dram_base=hex(self._dram.base),
            dram_size=self._dram.size,
            regions=regions,
            granules=dict(granules),
            uses=uses,
            states=dict(states),
            differences=differences[:_MAX_DIFFERENCES],
            num_differences=len(differences),
        )

    def _differences(self, expected: bytes) -> Iterator[Difference]:
        """Yield the granules whose GPI is not what the RMM's books demand."""
        base, end = self._rmm.granules.base, self._rmm.granules.end
        for run in self._gpt.runs():
            first = max(run.base, base) - base >> GRANULE_SHIFT
            last = min(run.base + run.size, end) - base >> GRANULE_SHIFT
            wanted = expected[first:last] if first < last else b""
            if wanted.count(run.gpi) == len(wanted):
                continue
            for n, gpi in enumerate(wanted, first):
                if gpi != run.gpi:
                    pa = base + (n << GRANULE_SHIFT)
                    state = books.granule_state(self._rmm, pa)
                    yield Difference(hex(pa), run.gpi.name, state)

    def granule(self, pa: int) -> GranulePicture:
        """Return one granule."""
        pa &= ~GRANULE_OFFSET
        if not 0 <= pa - self._dram.base < self._dram.size:
            end = self._dram.base + self._dram.size
            raise UserError(f"{pa:#x} is not in DRAM: give {self._dram.base:#x} to {end - 1:#x}")
        with self._stopped():
            entry = self._gpt.entry(pa)
            owner, ipas = books.Owners(self._rmm).describe(pa)
            state = books.granule_state(self._rmm, pa)
        return GranulePicture(
            pa=hex(pa),
            gpi=entry.gpi.name,
            gpt_entry=f"{entry.value:#018x} ({entry.form})",
            gpt_entry_pa=hex(entry.pa),
            state=state,
            owner=owner,
            ipas=ipas,
            accesses={world: _refusal(spaces, entry.gpi) for world, spaces in _WORLDS.items()},
        )

    # --- translation ----------------------------------------------------------------------

    def walk(self, pe: int, address: int, *, el: int | None = None) -> WalkPicture:
        """Walk a virtual address; ``el`` is 0 or 1, or None for the PE's current level."""
        with self._stopped():
            context = self._context(pe)
            level = el if el is not None else context.pstate >> 2 & 1
            walk = walk_va(self._dram, context, address)
            accesses = try_accesses(self._machine, pe, context, address, level, walk.steps)
            gpi = self._gpi_of(walk)
        return _walk_picture(walk, address, pe, level, gpi, accesses)

    def walk_ipa(self, pe: int, address: int) -> WalkPicture:
        """Walk an intermediate physical address."""
        with self._stopped():
            walk = walk_ipa(self._dram, self._context(pe), address)
            gpi = self._gpi_of(walk)
        return _walk_picture(walk, address, pe, 1, gpi, [])

    def stage1(self, pe: int, va: int, level: int | None) -> Stage1Picture:
        """Return the table of stage 1 for a virtual address at a level, by default the first."""
        with self._stopped():
            context = self._context(pe)
            if not context.sctlr_el1 & SCTLR_EL1.M.mask:
                raise UserError(f"stage 1 is off on PE {pe}: a virtual address is an IPA")
            return stage1_picture(self._dram, context, pe, va, level)

    def _gpi_of(self, walk: Walk) -> str | None:
        return None if walk.pa is None else self._gpt.entry(walk.pa).gpi.name

    # --- the RMM --------------------------------------------------------------------------

    def rtt(self) -> list[RttPicture]:
        """Return the translation tables of each realm."""
        with self._stopped():
            return [books.rtt(realm) for realm in self._realms()]

    def realms(self) -> list[RecordPicture]:
        """Return the RD of each realm."""
        with self._stopped():
            return [books.realm_record(realm) for realm in self._realms()]

    def recs(self) -> list[RecordPicture]:
        """Return each REC."""
        with self._stopped():
            return [books.rec_record(rec) for rec in self._recs()]

    def _realms(self) -> list[Realm]:
        realms = list(self._rmm.realms.values())
        if not realms:
            raise UserError("no realm exists: this is a normal VM")
        return realms

    def _recs(self) -> list[Rec]:
        return sorted(self._rmm.recs.values(), key=lambda rec: (rec.realm.rd, rec.index))

    # --- PEs ------------------------------------------------------------------------------

    def pes(self) -> list[PePicture]:
        """Return the registers of each PE."""
        with self._stopped():
            return [pes.pe_picture(n, each) for n, each in enumerate(self._contexts())]

    def gic(self) -> list[GicPicture]:
        """Return the virtual CPU interface of each PE."""
        with self._stopped():
            return [pes.gic_picture(n, each) for n, each in enumerate(self._contexts())]

    def timers(self) -> list[TimerPicture]:
        """Return the timers of each PE."""
        frequency = self._machine.counter_frequency
        with self._stopped():
            counter = self._machine.counter()
            return [
                picture
                for n, each in enumerate(self._contexts())
                for picture in pes.timer_pictures(n, each, counter, frequency)
            ]

    # --- caches ---------------------------------------------------------------------------

    def tlbs(self) -> list[TlbPicture]:
        """Return the translations that each PE has cached."""
        with self._stopped():
            return [tlb_picture(self._machine, n) for n in range(len(self._contexts()))]

    def code(self, pe: int, address: int | None) -> CodePicture:
        """Return the code that a PE has executed: at a virtual address, by default at its PC."""
        with self._stopped():
            context = self._context(pe)
            va = context.pc if address is None else address
            walk = walk_va(self._dram, context, va)
            place = None if walk.pa is None or walk.pas is None else (walk.pa, walk.pas)
            return code_picture(self._machine, self._dram, pe, va, place)

    def _contexts(self) -> Sequence[PeContext]:
        return [rec.context for rec in self._recs()] or self._contexts_of_vm()

    def _context(self, pe: int) -> PeContext:
        contexts = self._contexts()
        if not 0 <= pe < len(contexts):
            raise UserError(f"PE {pe} does not exist: the guest has {len(contexts)}, from 0")
        return contexts[pe]


def _refusal(spaces: Sequence[Pas], gpi: Gpi) -> str:
    """Return why software that may use these address spaces cannot access a granule."""
    if gpi is Gpi.ANY or any(gpi == gpi_of(pas) for pas in spaces):
        return ""
    names = " or ".join(pas.name for pas in spaces)
    return f"granule protection fault: the GPT says {gpi.name}, an access is {names}"


def _walk_picture(
    walk: Walk, address: int, pe: int, el: int, gpi: str | None, accesses: list[AccessResult]
) -> WalkPicture:
    return WalkPicture(
        address=hex(address),
        pe=pe,
        el=el,
        steps=walk.steps,
        ipa=None if walk.ipa is None else hex(walk.ipa),
        pa=None if walk.pa is None else hex(walk.pa),
        pas=None if walk.pas is None else walk.pas.name,
        gpi=gpi,
        accesses=accesses,
    )
