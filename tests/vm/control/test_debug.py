"""The state of vCPUs that `pyvmm debug` shows, on the real core."""

from collections.abc import Iterator

import pytest

from pyvmm.arch.errors import UserError
from pyvmm.arch.pstate import describe_pstate
from pyvmm.host.guest import RealmOptions
from pyvmm.vm.control.debug import (
    CODE_AFTER,
    CODE_BEFORE,
    STACK_WORDS,
    inspect_vcpus,
    step_vcpu,
)
from tests.host.debug_rig import CODE, COUNT, DATA, RAM_BASE, RAM_SIZE, STORE, Rig
from tests.waiting import wait_until


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Return two vCPUs, both counting, stopped."""
    with Rig(num_cpus=2) as made:
        made.start()
        wait_until(made.all_count)
        made.attach()
        yield made


def test_a_look_shows_registers_stack_and_code(rig: Rig) -> None:
    """Values are hexadecimal text; the code includes the next instruction."""
    registers = rig.port.registers(0)
    registers.pc, registers.sp_el1, registers.pstate = CODE + STORE, DATA + 0x103, 0x2000_03C5
    registers.x[6] = DATA
    rig.vm.dma.write(DATA + 0x108, (0xFEED << 48).to_bytes(8, "little"))
    first, second = inspect_vcpus(rig.port)
    assert (first.is_on, first.pstate) == (True, "EL1h nzCv DAIF")
    assert first.registers["pc"] == f"{CODE + STORE:#018x}"
    assert first.registers["x6"] == f"{DATA:#018x}"
    assert first.system["SCTLR_EL1"] == "0x0000000030d00980"
    assert len(first.stack) == STACK_WORDS
    assert first.stack[f"{DATA + 0x108:#018x}"] == "0xfeed000000000000"
    assert len(first.code) == CODE_BEFORE + CODE_AFTER
    here = next(line for line in first.code if line.address == first.registers["pc"])
    assert (here.word, here.text) == ("f90000c7", "str x7, [x6]")
    assert first.code[CODE_BEFORE - 1].text == "add x7, x7, #1"
    assert second.is_on


def test_what_is_no_memory_is_left_out(rig: Rig) -> None:
    """Stack pointer and program counter may point to unmapped memory or to its edge."""
    registers = rig.port.registers(0)
    registers.pc, registers.sp_el1 = 0, RAM_BASE + RAM_SIZE - 16
    vcpu = inspect_vcpus(rig.port)[0]
    assert (len(vcpu.stack), vcpu.code) == (2, [])
    registers.pc, registers.sp_el1 = RAM_BASE, (1 << 64) - 8
    vcpu = inspect_vcpus(rig.port)[0]
    assert (vcpu.stack, len(vcpu.code)) == ({}, CODE_AFTER)


def test_what_is_no_instruction_is_data(rig: Rig) -> None:
    """Capstone does not know the instruction."""
    rig.port.write(0, CODE + COUNT, b"\xff\xff\xff\xff")
    rig.port.registers(0).pc = CODE + COUNT
    assert inspect_vcpus(rig.port)[0].code[CODE_BEFORE].text == ".word 0xffffffff"


def test_a_vcpu_that_is_off_is_shown_so() -> None:
    """A vCPU that was never turned on is shown as off."""
    with Rig(num_cpus=2) as rig:
        assert [vcpu.is_on for vcpu in inspect_vcpus(rig.port)] == [True, False]


def test_a_running_guest_runs_on() -> None:
    """The guest stands still only briefly."""
    with Rig() as rig:
        rig.start()
        for _ in range(3):
            before = rig.counter()
            assert inspect_vcpus(rig.port)[0].is_on
            wait_until(lambda before=before: rig.counter() > before)  # type: ignore[misc]


def test_a_realm_that_has_ended_says_so() -> None:
    """Its RECs do not exist any longer."""
    with Rig(realm=RealmOptions(is_debuggable=True)) as rig:
        rig.start()
        rig.vm.close()
        with pytest.raises(UserError, match="the guest has ended"):
            inspect_vcpus(rig.port)


@pytest.mark.parametrize(
    ("pstate", "words"),
    [
        (0x3C5, "EL1h nzcv DAIF"),
        (0x8000_0000, "EL0t Nzcv daif"),
        (0x0130_1004, "EL1t nzcv daif DIT SS IL SSBS"),
        (0x9, "EL2h nzcv daif"),
        (0xB, "? nzcv daif"),
    ],
)
def test_pstate_in_words(pstate: int, words: str) -> None:
    """Flags and masks are letters, the other bits are names."""
    assert describe_pstate(pstate) == words


def test_a_paused_guest_steps_one_vcpu() -> None:
    """Only that one, by one instruction; the guest stays paused, and runs on when it is resumed."""
    with Rig(num_cpus=2) as rig:
        rig.start()
        wait_until(rig.all_count)
        rig.vm.pause()
        with rig.port.still():
            before = [rig.pc(0), rig.pc(1)]
        for _ in range(3):
            assert step_vcpu(rig.port, rig.vm, 1)
        with rig.port.still():
            assert rig.pc(0) == before[0]
            assert rig.pc(1) != before[1]
        count = rig.counter()
        assert step_vcpu(rig.port, rig.vm, 0)
        assert rig.counter() - count <= 1
        rig.vm.resume()
        wait_until(lambda: rig.counter() > count + 1000)


@pytest.mark.parametrize(
    ("cpu", "line"),
    [(-1, "CPU -1 does not exist: the guest has 2, from 0"), (2, "CPU 2 does not"), (1, "is off")],
)
def test_only_a_vcpu_that_is_on_steps(cpu: int, line: str) -> None:
    """One line says why not."""
    with Rig(num_cpus=2) as rig, pytest.raises(UserError, match=line):
        step_vcpu(rig.port, rig.vm, cpu)
