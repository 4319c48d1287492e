"""A report about a guest that died or stayed silent, in one paragraph.

Of a realm the host knows its exits and the calls to the host; its registers only with
``--realm-debug``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Final

from pyvmm.arch.esr import ABORTS, ESR_EL2, describe_syndrome
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.pv_time import PvTimeFid
from pyvmm.arch.rsi import RsiFid
from pyvmm.arch.smccc import SmcccFid
from pyvmm.host.guest import ExitKind
from pyvmm.host.registers import exception_level
from pyvmm.host.vcpu_state import LastExit, VcpuState
from pyvmm.vm.diagnosis.advice import explain, explain_panic
from pyvmm.vm.diagnosis.symbols import Symbols
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.options import VmOptions

_MAX_VCPUS: Final = 4  # in the report
_VECTOR_TABLE_SIZE: Final = 0x800
_FIDS: Final[tuple[type[IntEnum], ...]] = (PsciFid, RsiFid, SmcccFid, PvTimeFid)
_CALLS: Final = {int(fid): fid.name for fid in chain.from_iterable(_FIDS)}


@dataclass(frozen=True, slots=True)
class Ending:
    """The facts about the end of a guest."""

    code: ExitCode
    options: VmOptions
    output: int  # bytes that its console showed
    panic: str  # the kernel's message
    load_address: int  # of the kernel
    vcpus: Sequence[VcpuState]

    @property
    def is_silent(self) -> bool:
        """Whether the console showed nothing at all."""
        return not self.output

    @property
    def is_reported(self) -> bool:
        """Whether the user needs to know more than the exit code."""
        if self.code in {ExitCode.TIMEOUT, ExitCode.QUIT}:
            return self.is_silent
        return self.code in {ExitCode.PANIC, ExitCode.CRASHED, ExitCode.WATCHDOG}


def last_words(ending: Ending, symbols: Symbols | None = None) -> str:
    """Return the report."""
    return " ".join(_sentences(ending, symbols))


def _sentences(ending: Ending, symbols: Symbols | None) -> Iterator[str]:
    if ending.panic:
        yield f"the guest's kernel panicked: {ending.panic}."
    elif ending.is_silent:
        yield "the guest's console showed nothing."
    places = _Places(ending.load_address, symbols)
    shown = [(cpu, vcpu) for cpu, vcpu in enumerate(ending.vcpus) if vcpu.is_on or not cpu]
    for cpu, vcpu in shown[:_MAX_VCPUS]:
        yield _describe_vcpu(cpu, vcpu, places)
        if vcpu.registers is not None and not ending.panic:
            yield from _describe_exception(vcpu.registers, places)
    if len(shown) < len(ending.vcpus):
        yield f"{len(ending.vcpus) - len(shown)} of {len(ending.vcpus)} vCPUs were off."
    options = ending.options
    if options.realm is not None and not options.realm.is_debuggable:
        yield "A realm hides its PC and registers; --realm-debug would show them."
    yield _likely_cause(ending)


class _Places:
    """Describes addresses."""

    def __init__(self, load_address: int, symbols: Symbols | None) -> None:
        self._load_address = load_address
        self._symbols = symbols

    def describe(self, address: int, registers: GuestRegisters) -> str:
        name = ""
        if self._symbols is not None:
            name = self._symbols.find(address, self._load_address, _system(registers, "vbar_el1"))
        return f"{address:#x} ({name})" if name else f"{address:#x}"


def _describe_vcpu(cpu: int, vcpu: VcpuState, places: _Places) -> str:
    words = [f"vCPU {cpu}", "was on" if vcpu.is_on else "was off"]
    registers = vcpu.registers
    if registers is not None:
        words.append(f"at PC {places.describe(registers.pc, registers)}")
        words.append(f"in EL{exception_level(registers)}")
    counts = [f"{kind.name.lower()} {vcpu.exits[kind]}" for kind in ExitKind if vcpu.exits[kind]]
    parts = [" ".join(words), f"its exits: {', '.join(counts) or 'none'}"]
    return "; ".join([*parts, *_describe_last(vcpu.last)]) + "."


def _describe_last(last: LastExit) -> Iterator[str]:
    if last.esr is not None:
        is_abort = ESR_EL2(last.esr).EC in ABORTS
        place = f" at IPA {last.ipa:#x}" if is_abort else ""
        yield f"its last synchronous exit was {describe_syndrome(last.esr)}{place}"
    if last.call is not None:
        yield f"its last call was {_CALLS.get(last.call, hex(last.call))}"


def _describe_exception(registers: GuestRegisters, places: _Places) -> Iterator[str]:
    """Describe the exception, if the PC is in the exception vectors."""
    if _is_in_vectors(registers):
        vbar = _system(registers, "vbar_el1")
        what = describe_syndrome(_system(registers, "esr_el1"))
        origin = places.describe(_system(registers, "elr_el1"), registers)
        yield f"Its PC is in the exception vectors (VBAR_EL1 {vbar:#x}), after {what} at {origin}."


def _is_in_vectors(registers: GuestRegisters) -> bool:
    return 0 <= registers.pc - _system(registers, "vbar_el1") < _VECTOR_TABLE_SIZE


def _system(registers: GuestRegisters, name: str) -> int:
    return int(getattr(registers, name))


def _likely_cause(ending: Ending) -> str:
    options = ending.options
    if ending.panic:
        cause = explain_panic(options, ending.panic)
    elif not ending.is_silent:
        cause = "the console's last lines show what it did: look there first"
    else:
        total = [sum(column) for column in zip(*(vcpu.exits for vcpu in ending.vcpus), strict=True)]
        is_held = options.waits_for_gdb and not any(total)
        cause = "--gdb-wait: no debugger started it" if is_held else explain(options, total)
    return f"Likely cause: {cause}."
