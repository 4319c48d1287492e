"""The Arm machine in C, with a typed facade: DRAM, granule protection checks, PEs.

Nothing here prints or calls back: ``Pe.run`` returns a value.  Only this package uses cffi's
untyped objects.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pyvmm.arch.engine import Engine, NoGeneratedCodeError
from pyvmm.arch.errors import UserError
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.gic import NUM_LRS
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.arch.sysregs import DEFAULT_FEATURES, Feature
from pyvmm.core import generate


class UnusableCore(UserError, ImportError):
    """The compiled core does not exist, or was not built from these sources."""


try:
    from pyvmm.core._core import ffi, lib
except ImportError as error:  # pragma: no cover
    raise UnusableCore("the C core is not built: run `make setup`") from error


if ffi.string(lib.core_digest()).decode() != generate.digest():  # pragma: no cover
    raise UnusableCore("the C core is stale: run `make setup`")

# What every exit and every access calls: without the look-up in the library.
pe_run = lib.pe_run
NULL = ffi.NULL
machine_code_changed = lib.machine_code_changed
machine_gpc = lib.machine_gpc
machine_write = lib.machine_write
machine_write_record = lib.machine_write_record
machine_zero = lib.machine_zero
machine_punch = lib.machine_punch
machine_tlbi_pa = lib.machine_tlbi_pa
machine_tlbi_ipa = lib.machine_tlbi_ipa


WORD_SIZE = 8
DIFFERS = int(ExitReason.DIFFERS)
STAT_BLOCK_SIZE = 512  # the unit of stat(2)'s st_blocks


class Clock(IntEnum):
    """The source of the guest's time."""

    REAL = 0  # the host's monotonic clock
    VIRTUAL = 1  # instructions executed; idle time is skipped, so a run is exactly repeatable
    EXACT = 2  # the same for PEs in turns; timers and budgets end a run at their very instruction


HOT = 64  # executions after which code is translated: fewer gained nothing in boots

#: ``struct pe_state`` of api.h, the registers of a vCPU or REC.  Users of a context declare the
#: fields that they access.
PeContext = Any

#: ``struct pe_debug`` of api.h.
PeDebug = Any


class PhysicalMemory:
    """One world's view of one physical address space: all accesses pass the protection check.

    Addresses and sizes are in bytes.  Raises GranuleProtectionFault, before anything is read or
    written, for a granule that the GPT assigns to another PAS and for an address outside DRAM.
    """

    __slots__ = ("_base", "_buffer", "_machine", "_pas", "pas")

    def __init__(self, machine: Machine, pas: Pas) -> None:
        self.pas = pas
        self._pas = int(pas)
        self._machine = machine.handle
        self._base = machine.dram_base
        self._buffer = machine.buffer(pas)

    def _refusal(self, pa: int, size: int) -> GranuleProtectionFault:
        bad = ffi.new("uint64_t *")
        machine_gpc(self._machine, self._pas, pa, size, bad)
        return GranuleProtectionFault(bad[0], self.pas)

    def read(self, pa: int, size: int) -> bytes:
        """Return ``size`` bytes."""
        try:
            fault = machine_gpc(self._machine, self._pas, pa, size, NULL)
        except OverflowError:
            raise GranuleProtectionFault(pa, self.pas) from None
        if fault:
            raise self._refusal(pa, size)
        offset = pa - self._base
        return self._buffer[offset : offset + size].tobytes()

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data``."""
        source = data if type(data) is bytes else ffi.from_buffer(data)
        try:
            fault = machine_write(self._machine, self._pas, pa, source, len(data), NULL)
        except OverflowError:
            raise GranuleProtectionFault(pa, self.pas) from None
        if fault:
            raise self._refusal(pa, len(data))

    def read_u64(self, pa: int) -> int:
        """Return the little-endian 64-bit value at ``pa``."""
        return int.from_bytes(self.read(pa, 8), "little")

    def write_u64(self, pa: int, value: int) -> None:
        """Write a little-endian 64-bit value."""
        self.write(pa, value.to_bytes(8, "little"))

    def zero(self, pa: int, size: int) -> None:
        """Write zeros."""
        try:
            fault = machine_zero(self._machine, self._pas, pa, size, NULL)
        except OverflowError:
            raise GranuleProtectionFault(pa, self.pas) from None
        if fault:
            raise self._refusal(pa, size)

    def view(self, pa: int, size: int) -> memoryview:
        """Return a writable view; it is checked now, so use it only for one transfer."""
        try:
            fault = machine_gpc(self._machine, self._pas, pa, size, NULL)
        except OverflowError:
            raise GranuleProtectionFault(pa, self.pas) from None
        if fault:
            raise self._refusal(pa, size)
        machine_code_changed(self._machine, self._pas, pa, size)
        offset = pa - self._base
        return self._buffer[offset : offset + size]


class TranslationError(Exception):
    """The engine ``check`` found that translated code differs from the interpreter."""


class Record:
    """Words that a hypervisor shows in memory, some of them registers of a context."""

    __slots__ = ("_machine", "_pas", "_record", "pas", "words")

    def __init__(self, machine: Machine, pas: Pas, size: int, registers: Mapping[str, int]) -> None:
        """Make a record of zeros; ``registers`` gives registers their places, in bytes."""
        self.pas = pas
        self._pas = int(pas)
        self._machine = machine.handle
        self._record = record = ffi.new("struct record *")
        record.num_words = size // WORD_SIZE
        record.num_registers = len(registers)
        for copied, (name, at) in zip(record.registers, registers.items(), strict=False):
            kind = dict(ffi.typeof("struct pe_state").fields)[name].type
            copied.word, copied.count = at // WORD_SIZE, ffi.sizeof(kind) // WORD_SIZE
            copied.offset = ffi.offsetof("struct pe_state", name)
        self.words = memoryview(ffi.buffer(record.words)).cast("Q")[: size // WORD_SIZE]

    def write(self, pa: int, context: PeContext) -> None:
        """Take the registers of a context into the words, and write these."""
        if machine_write_record(self._machine, self._pas, pa, context, self._record):
            raise GranuleProtectionFault(pa, self.pas)


@cache
def _saved_fields() -> dict[str, int]:
    """Return how many numbers each field of a context has, without pointers."""
    fields = ffi.typeof("struct pe_state").fields
    return {
        name: ffi.sizeof(each.type) // WORD_SIZE
        for name, each in fields
        if each.type.kind != "pointer"
    }


class PeExit(Protocol):
    """Why a run ended (``struct pe_exit``); the next run of the same PE reuses the object."""

    reason: int  # ExitReason
    irq: int  # IrqCause bits of an IRQ exit
    esr: int  # the syndrome, as ESR_EL2
    far: int  # the faulting virtual address, as FAR_EL2
    hpfar: int  # the faulting IPA page, as HPFAR_EL2
    instructions: int  # executed by the run


#: ICH_*_EL2 in the bytes of a context.
_INTERFACE = slice(
    ffi.offsetof("struct pe_state", "ich_hcr"), ffi.offsetof("struct pe_state", "security")
)


def new_context() -> PeContext:
    """Return a context after reset."""
    context = ffi.new("struct pe_state *")
    lib.pe_reset_state(context)
    return context


class Pe:
    """One processing element.  One thread at a time drives it; any thread may kick it."""

    __slots__ = ("_exit", "_machine", "index", "interface")

    def __init__(self, machine: Machine, index: int) -> None:
        self.index = index
        self.interface = new_context()  # only its ICH_*_EL2 are used
        self._machine = machine.handle
        self._exit: PeExit = ffi.new("struct pe_exit *")

    def run(self, context: PeContext, budget: int) -> PeExit:
        """Run the context until an exit, at most ``budget`` instructions, without the GIL."""
        pe_run(self._machine, self.index, context, budget, self._exit)
        if self._exit.reason == DIFFERS:
            raise TranslationError(f"at {self._exit.far:#x} translated code differs")
        return self._exit

    def kick(self) -> None:
        """Make this run, or the next one, return with ExitReason.IRQ."""
        lib.pe_kick(self._machine, self.index)

    def set_maintenance(self, is_enabled: bool) -> None:
        """Set whether the host takes this PE's GIC maintenance interrupt; the PE must not run.

        Initially off, like PPI 25 of a redistributor after reset.
        """
        lib.pe_set_maintenance(self._machine, self.index, is_enabled)

    def set_alarm(self, count: int) -> None:
        """Make a run end as by a kick when the counter reaches ``count``, once; MASK64: never."""
        lib.pe_set_alarm(self._machine, self.index, count)

    @property
    def instructions(self) -> int:
        """The number of instructions executed in all its runs; any thread."""
        return int(lib.pe_instructions(self._machine, self.index))

    def translate(self, context: PeContext, va: int, access: int = 0) -> tuple[int, int, Pas, bool]:
        """Translate one address as in the context; the PE must not run meanwhile.

        ``access`` is 0 for a read, 1 for a write, 2 for a fetch, and 3 for a debugger, without
        stage-1 permission checks.
        Returns (fault status code or 0, pa, pas, whether the fault goes to EL2).
        """
        pa, pas = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        stage2 = ffi.new("uint32_t *")
        fault = lib.pe_translate(self._machine, self.index, context, va, access, pa, pas, stage2)
        return fault, pa[0], Pas(pas[0]), bool(stage2[0])


class Machine:
    """DRAM in four physical address spaces, the GPT's check, and PEs.

    ``dram_base`` and ``dram_size`` are in bytes, granule-aligned.  Raises OSError if the host
    cannot provide the memory.
    """

    def __init__(
        self,
        dram_base: int,
        dram_size: int,
        num_pes: int = 1,
        clock: Clock = Clock.REAL,
        features: Feature = DEFAULT_FEATURES,
        *,
        engine: Engine = Engine.INTERP,
        threshold: int = HOT,
    ) -> None:
        handle = lib.machine_new(dram_base, dram_size, num_pes, int(clock), int(features))
        if handle == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self.handle = ffi.gc(handle, lib.machine_free)
        self.dram_base = dram_base
        self.dram_size = dram_size
        self.num_pes = num_pes
        if engine is not Engine.INTERP:
            self._translate(engine, threshold)
        self.counter_frequency: int = lib.machine_counter_frequency(handle)
        self._pes = [Pe(self, index) for index in range(num_pes)]
        self._memories = {pas: PhysicalMemory(self, pas) for pas in Pas}
        self._debugs: WeakKeyDictionary[PeContext, PeDebug | None] = WeakKeyDictionary()

    def _translate(self, engine: Engine, threshold: int) -> None:
        if lib.machine_translate(self.handle, threshold, engine is Engine.CHECK):
            match ffi.errno:
                case errno.ENOTSUP:
                    raise UserError(f"no engine {engine} on this host: give --engine interp")
                case errno.EINVAL:
                    raise UserError(f"engine {engine} has one CPU, not {self.num_pes}: give -c 1")
                case errno.EACCES | errno.EPERM | errno.ENOSYS:
                    raise NoGeneratedCodeError(
                        "the host forbids generated code: give --engine interp"
                    )
                case error:
                    raise OSError(error, os.strerror(error))

    @property
    def num_translated(self) -> int:
        """The number of translated regions of code; only while no PE runs."""
        return int(lib.machine_translated(self.handle))

    def make_private(self) -> None:
        """Have a fork of this process get a copy of the memory; before anything is in it."""
        if lib.machine_make_private(self.handle):
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def buffer(self, pas: Pas) -> memoryview:
        """Return all memory of a PAS without checks, for the views, which check."""
        memory = lib.machine_memory(self.handle, int(pas))
        return memoryview(ffi.buffer(memory, self.dram_size))

    def memfd(self, pas: Pas) -> int:
        """Return the file descriptor of the memory of a PAS."""
        return int(lib.machine_memfd(self.handle, int(pas)))

    def memory(self, pas: Pas) -> PhysicalMemory:
        """Return the view of one PAS."""
        return self._memories[pas]

    def pe(self, index: int) -> Pe:
        """Return a PE."""
        return self._pes[index]

    def new_context(self) -> PeContext:
        """Return the state of a vCPU or REC after reset: EL1h, everything masked, MMU off."""
        return new_context()

    def new_context_with_el2(self) -> PeContext:
        """Return the state after reset of a context that has EL2 itself: EL2h, all masked."""
        context = new_context()
        lib.pe_reset_el2(context)
        return context

    def list_registers(self, context: PeContext) -> bytes:
        """Return ICH_LR<n>_EL2 of a context or of a PE's interface."""
        return bytes(ffi.buffer(context.ich_lr)[: NUM_LRS * WORD_SIZE])

    def copy_interface(self, source: PeContext, target: PeContext) -> None:
        """Copy ICH_*_EL2, which are in a row in the structure."""
        ffi.buffer(target)[_INTERFACE] = ffi.buffer(source)[_INTERFACE]

    def new_record(self, pas: Pas, size: int, registers: Mapping[str, int]) -> Record:
        """Return a record of ``size`` bytes for a PAS; see `Record`."""
        return Record(self, pas, size, registers)

    def new_debug(self) -> PeDebug:
        """Return a debugger's settings for a context, without any step or point."""
        return ffi.new("struct pe_debug *")

    def lend_debug(self, context: PeContext, debug: PeDebug | None) -> None:
        """Set or remove a context's debugger."""
        context.debug = ffi.NULL if debug is None else debug
        self._debugs[context] = debug  # C holds no reference

    def copy_context(self, context: PeContext) -> PeContext:
        """Return a copy of a context; a debugger is not copied with it."""
        copy = ffi.new("struct pe_state *", ffi.cast("struct pe_state *", context)[0])
        copy.debug = ffi.NULL
        return copy

    def set_gpt(self, gptbr_pa: int, gpccr: int) -> None:
        """Set GPTBR_EL3 (the table's address, in Root memory) and GPCCR_EL3."""
        lib.machine_set_gpt(self.handle, gptbr_pa, gpccr)

    def punch(self, pas: Pas, pa: int, size: int) -> None:
        """Drop the contents of a range of one PAS: it reads as zeros afterwards."""
        if machine_punch(self.handle, pas, pa, size):
            raise OSError(ffi.errno, os.strerror(ffi.errno))

    def tlbi_pa(self, pa: int, size: int) -> None:
        """Invalidate translations to a physical range; no PE uses one afterwards."""
        machine_tlbi_pa(self.handle, pa, size)

    def tlbi_ipa(self, vmid: int, ipa: int, size: int) -> None:
        """Invalidate stage-2 translations of a range."""
        machine_tlbi_ipa(self.handle, vmid, ipa, size)

    def tlbi_vmid(self, vmid: int) -> None:
        """Invalidate every translation of a VMID."""
        lib.machine_tlbi_vmid(self.handle, vmid)

    def resident(self, pas: Pas) -> int:
        """Return the host memory used by a PAS in bytes."""
        return os.fstat(self.memfd(pas)).st_blocks * STAT_BLOCK_SIZE

    def counter(self) -> int:
        """Return CNTPCT, in ticks of ``counter_frequency``."""
        return int(lib.machine_counter(self.handle))

    def set_counter(self, count: int) -> None:
        """Make CNTPCT continue from a value; only before any PE runs."""
        lib.machine_set_counter(self.handle, count)

    def save_context(self, context: PeContext) -> dict[str, list[int]]:
        """Return all numbers of a context that does not run, by name in `struct pe_state`."""
        saved = {}
        for name in _saved_fields():
            value = getattr(context, name)
            saved[name] = [value] if isinstance(value, int) else list(value)
        return saved

    def load_context(self, context: PeContext, saved: Mapping[str, Sequence[int]]) -> None:
        """Set numbers of a context, of those that `save_context` returns.

        ValueError for an unknown name, a number that does not fit, or too many of them.
        """
        fields = _saved_fields()
        for name, values in saved.items():
            size = fields.get(name)
            if size != len(values) or not all(0 <= value < 1 << 64 for value in values):
                raise ValueError(f"register {name}")
            if size == 1:
                setattr(context, name, values[0])
            else:
                setattr(context, name, list(values))

    def id_register(self, op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
        """Return the value of an ID register, 0 for a reserved one."""
        return int(
            lib.machine_id_register(self.handle, op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
        )


def decode(word: int) -> str:
    """Return the name of an A64 word's op."""
    return str(ffi.string(lib.core_op_name(lib.core_decode(word))).decode())


def confine_threads(ruleset: int) -> None:
    """Make every thread of this process enter a Landlock ruleset; OSError if one cannot."""
    if lib.core_confine_threads(ruleset):
        raise OSError(ffi.errno, os.strerror(ffi.errno))
