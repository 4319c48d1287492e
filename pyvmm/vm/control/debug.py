"""The state of each stopped vCPU: registers, stack and code; single steps."""

from threading import Event
from typing import Final, Protocol

from pyvmm.arch.bits import MASK64
from pyvmm.arch.disassembly import INSTRUCTION, disassemble
from pyvmm.arch.errors import UserError
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.pstate import describe_pstate
from pyvmm.host.debug import DebugFault, DebugPort, Resume
from pyvmm.host.registers import GENERAL, PC, PSTATE, SP, SYSTEM, Register
from pyvmm.vm.control.api import CodeLine, Vcpu

WORD: Final = 8
STACK_WORDS: Final = 16
CODE_BEFORE, CODE_AFTER = 6, 10  # instructions
STEP_PATIENCE: Final = 1.0  # seconds for one instruction


class Pausable(Protocol):
    """A guest that can be paused."""

    def pause(self) -> None:
        """Pause every vCPU; return when all stand still."""

    def resume(self) -> None:
        """Resume the vCPUs."""


def inspect_vcpus(port: DebugPort) -> list[Vcpu]:
    """Return the state of every vCPU; the guest stands still meanwhile.

    Raises:
        UserError: the guest has ended.
    """
    with port.still():
        try:
            return [_inspect(port, cpu) for cpu in range(port.num_cpus)]
        except DebugFault:
            raise UserError("the guest has ended: its state is gone") from None


def step_vcpu(port: DebugPort, guest: Pausable, cpu: int) -> bool:
    """Execute one instruction of a vCPU while the guest is paused; no debugger is attached.

    Returns: whether it was completed; a vCPU that waits for an interrupt does not complete it.

    Raises:
        UserError: there is no such vCPU, or the guest has ended.
    """
    if not 0 <= cpu < port.num_cpus:
        raise UserError(f"CPU {cpu} does not exist: the guest has {port.num_cpus}, from 0")
    if not port.is_on(cpu):
        raise UserError(f"CPU {cpu} is off: the guest has not turned it on")
    has_stopped = Event()
    port.attach(has_stopped.set)
    try:
        guest.resume()
        port.resume([Resume.STEP if n == cpu else Resume.STAY for n in range(port.num_cpus)])
        is_done = has_stopped.wait(STEP_PATIENCE)
    except DebugFault:
        raise UserError("the guest has ended: its state is gone") from None
    finally:
        port.hold()
        guest.pause()
        port.detach()
    return is_done


def _inspect(port: DebugPort, cpu: int) -> Vcpu:
    registers = port.registers(cpu)
    return Vcpu(
        is_on=port.is_on(cpu),
        pstate=describe_pstate(PSTATE.get(registers)),
        registers=dict(_shown(registers, (PC, SP, PSTATE, *GENERAL))),
        system=dict(_shown(registers, SYSTEM)),
        stack=_stack(port, cpu, SP.get(registers)),
        code=_code(port, cpu, PC.get(registers)),
    )


def _shown(registers: GuestRegisters, which: tuple[Register, ...]) -> list[tuple[str, str]]:
    return [(each.name, _hex(each.get(registers))) for each in which]


def _hex(value: int) -> str:
    """Return a number as text, which JSON tools do not round."""
    return f"{value:#018x}"


def _words(port: DebugPort, cpu: int, address: int, size: int, count: int) -> dict[int, int]:
    """Return the words from an address on, by their addresses, up to the end of mapped memory."""
    try:
        data = port.read(cpu, address, size * count)
    except DebugFault:
        return {}
    whole = len(data) - len(data) % size
    return {
        address + at & MASK64: int.from_bytes(data[at : at + size], "little")
        for at in range(0, whole, size)
    }


def _stack(port: DebugPort, cpu: int, sp: int) -> dict[str, str]:
    words = _words(port, cpu, sp & -WORD, WORD, STACK_WORDS)
    return {_hex(address): _hex(word) for address, word in words.items()}


def _code(port: DebugPort, cpu: int, pc: int) -> list[CodeLine]:
    before = _words(port, cpu, pc - INSTRUCTION * CODE_BEFORE & MASK64, INSTRUCTION, CODE_BEFORE)
    after = _words(port, cpu, pc, INSTRUCTION, CODE_AFTER)
    words = before | after
    return [
        CodeLine(_hex(address), f"{word:08x}", text)
        for (address, word), text in zip(words.items(), disassemble(words), strict=True)
    ]
