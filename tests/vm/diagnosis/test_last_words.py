"""The paragraph about a guest that died or stayed silent."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.arch.esr import ExceptionClass, describe_syndrome, translation_fault
from pyvmm.arch.machine import GuestRegisters
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi_debug import DebugRegisters
from pyvmm.arch.rsi import RsiFid
from pyvmm.host.guest import ExitKind
from pyvmm.host.realm_debug import RecRegisters
from pyvmm.host.vcpu_state import LastExit, VcpuState
from pyvmm.vm.diagnosis.last_words import Ending, last_words
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.option_values import DiskOptions, GdbAddress
from pyvmm.vm.options import VmOptions

VM = VmOptions()
REALM = VmOptions(is_realm=True)
DISK = replace(VM, disks=(DiskOptions(Path("disk")),))


def vcpu(
    *,
    esr: int | None = None,
    ipa: int = 0,
    call: int | None = None,
    is_on: bool = True,
    registers: GuestRegisters | None = None,
    **counts: int,
) -> VcpuState:
    """Return a vCPU with these counts of exits by kind."""
    last = LastExit()
    last.esr, last.ipa, last.call = esr, ipa, call
    exits = [counts.get(kind.name.lower(), 0) for kind in ExitKind]
    return VcpuState(is_on, exits, last, registers)


def ending(
    options: VmOptions = VM,
    *vcpus: VcpuState,
    code: ExitCode = ExitCode.TIMEOUT,
    output: int = 0,
    panic: str = "",
) -> Ending:
    """Return the end of a guest, by default a silent one."""
    return Ending(code, options, output, panic, 0x8008_0000, vcpus or (vcpu(irq=1),))


@pytest.mark.parametrize("code", ExitCode)
@pytest.mark.parametrize("output", [0, 1])
def test_an_end_is_reported_if_its_exit_code_leaves_questions(code: ExitCode, output: int) -> None:
    """Panics, crashes and hangs are always reported, a stop only if the guest was silent."""
    always = {ExitCode.PANIC, ExitCode.CRASHED, ExitCode.WATCHDOG}
    silent = {ExitCode.TIMEOUT, ExitCode.QUIT}
    expected = code in always or (code in silent and not output)
    assert ending(code=code, output=output).is_reported == expected


def test_a_normal_vm_shows_everything() -> None:
    """The report has PC, exits, the last syndrome and call, and the guest's exception."""
    page = DebugRegisters.of(pc=0x200, pstate=0x3C5, esr_el1=0x0200_0000, elr_el1=0x8008_0040)
    registers = RecRegisters(bytes(page))
    esr = translation_fault(3, write=True)
    one = vcpu(esr=esr, ipa=0x100_0000, call=PsciFid.CPU_ON_64, mmio=2, registers=registers)
    other = vcpu(is_on=False)
    assert last_words(ending(VM, one, other, code=ExitCode.CRASHED)) == (
        "the guest's console showed nothing. vCPU 0 was on at PC 0x200 in EL1; its exits: mmio 2;"
        " its last synchronous exit was a data abort from a lower level (write, translation fault"
        " at level 3, ESR 0x92000047) at IPA 0x1000000; its last call was CPU_ON_64."
        " Its PC is in the exception vectors (VBAR_EL1 0x0), after an undefined instruction"
        " (ESR 0x2000000) at 0x80080040. 1 of 2 vCPUs were off. Likely cause: it uses devices, but"
        " stops before it uses its console; try -p earlycon."
    )


def test_a_realm_shows_only_what_its_host_may_know() -> None:
    """The report says how to see more."""
    text = last_words(ending(REALM, vcpu(call=RsiFid.RSI_IPA_STATE_SET, ripas=3)))
    assert "vCPU 0 was on; its exits: ripas 3; its last call was RSI_IPA_STATE_SET." in text
    assert "--realm-debug would show them" in text
    assert "PC 0x" not in text
    debuggable = replace(REALM, is_debuggable=True)
    assert "--realm-debug" not in last_words(ending(debuggable))


@pytest.mark.parametrize(
    ("options", "vcpus", "cause"),
    [
        (VM, (), "it never used a device: .* try -p earlycon"),
        (REALM, (), "without realm support .*earlycon=uart,mmio,0x101000000"),
        (VM, (vcpu(mmio=9),), "stops before it uses its console; try -p earlycon"),
        (REALM, (vcpu(mmio=9),), "stops before it uses its console; try -p with earlycon=uart"),
        (replace(VM, has_defaults=False), (vcpu(mmio=9),), "try console=ttyS0 with -p"),
        (
            replace(REALM, params="quiet", console="virtio"),
            (vcpu(mmio=9),),
            "try console=hvc0 with -p, which replaces",
        ),
        (
            replace(REALM, params="earlycon=uart8250,mmio,0x01000000"),
            (),
            "cannot reach the address of its earlycon=; try earlycon=uart,mmio,0x101000000",
        ),
        (replace(VM, gdb=GdbAddress(1), waits_for_gdb=True), (vcpu(),), "no debugger started it"),
    ],
)
def test_likely_cause_of_silence(
    options: VmOptions, vcpus: tuple[VcpuState, ...], cause: str
) -> None:
    """The remedy depends on the guest's exits and options."""
    assert_cause(ending(options, *vcpus), cause)


@pytest.mark.parametrize(
    ("options", "panic", "cause"),
    [
        (VM, "VFS: Unable to mount root fs on x", "neither a disk"),
        (DISK, "VFS: Unable to mount root fs on x", "no driver for the disk"),
        (
            replace(DISK, initrd=Path("i")),
            "VFS: Unable to mount root fs on x",
            "not for this kernel",
        ),
        (
            replace(DISK, is_realm=True, params="console=ttyS0"),
            "VFS: Unable to mount root fs on x",
            r"no root= \(-p replaces",
        ),
        (replace(DISK, has_defaults=False), "VFS: Unable to mount root fs", r"\(--nodefaults\)"),
        (VM, "No working init found.", "no program to start with"),
        (VM, "Attempted to kill init! exitcode=0x00000100", "first program of the guest ended"),
        (VM, "System is deadlocked on memory", "give more with -m"),
        (VM, "sysrq triggered crash", "requested"),
        (VM, "Asynchronous SError Interrupt", "SError"),
        (VM, "Fatal exception", "call trace"),
    ],
)
def test_likely_cause_of_a_panic(options: VmOptions, panic: str, cause: str) -> None:
    """The remedy depends on the kernel's message and the options."""
    end = ending(options, code=ExitCode.PANIC, output=99, panic=panic)
    assert last_words(end).startswith(f"the guest's kernel panicked: {panic}. vCPU 0")
    assert_cause(end, cause)


def assert_cause(end: Ending, cause: str) -> None:
    """Check the last sentence."""
    before, found, text = last_words(end).partition(" Likely cause: ")
    assert before
    assert found
    assert re.search(cause, text), text


@pytest.mark.parametrize("exception_class", ExceptionClass)
@pytest.mark.parametrize("code", [0x00, 0x07, 0x10, 0x15, 0x21, 0x23, 0x28, 0x3F])
def test_every_syndrome_has_words(exception_class: ExceptionClass, code: int) -> None:
    """Every syndrome has a description, even with a reserved fault status."""
    esr = exception_class << 26 | code
    text = describe_syndrome(esr)
    assert text.endswith(f"ESR {esr:#x})")
    assert not text.startswith("exception class")
