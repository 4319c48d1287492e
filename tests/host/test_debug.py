"""The debug port of a normal VM on the real core: stops, steps, registers, memory, time."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi_debug import MAX_BREAKPOINTS, MAX_WATCHPOINTS
from pyvmm.host.debug import (
    Access,
    DebugFault,
    Resume,
    Stop,
    StopKind,
    TooManyError,
    Watch,
)
from pyvmm.host.guest import Outcome, RealmOptions
from pyvmm.host.registers import CORE, FLOATING, PC, PSTATE, SP, SYSTEM, BadValueError
from tests.host.debug_rig import (
    CALL,
    CODE,
    COUNT,
    DATA,
    DATA_SIZE,
    LEAF,
    PATIENCE,
    START,
    STORE,
    UART,
    Rig,
)
from tests.waiting import wait_until

PAN = 1 << 22
LOOKS = 50
MASK64 = (1 << 64) - 1
NAMED = {register.name: register for register in SYSTEM}
ABORTED = 0x200  # with VBAR_EL1 at 0
UNDEFINED_HVC = ".long 0xd4000002"  # in a realm
OFF = "ldr x0, =0x84000008\n hvc #0"


KINDS = {"vm": None, "realm": RealmOptions(is_debuggable=True)}


@pytest.fixture(params=KINDS)
def realm(request: pytest.FixtureRequest) -> RealmOptions | None:
    """Return what a normal VM has for a realm's options, then those of a realm."""
    return KINDS[request.param]


@pytest.fixture
def rig(realm: RealmOptions | None) -> Iterator[Rig]:
    """Return one vCPU that waits for its debugger before its first instruction."""
    with Rig(realm=realm) as made:
        made.attach()
        made.start()
        yield made


@pytest.fixture
def vm() -> Iterator[Rig]:
    """Return the same, a normal VM only."""
    with Rig() as made:
        made.attach()
        made.start()
        yield made


@pytest.fixture
def pair(realm: RealmOptions | None) -> Iterator[Rig]:
    """Return two vCPUs, both counting, that their debugger has stopped."""
    with Rig(num_cpus=2, realm=realm) as made:
        made.start()
        wait_until(made.all_count)
        made.attach()
        yield made


def test_a_held_guest_does_nothing(rig: Rig) -> None:
    """It is held before its first instruction, and later."""
    assert (rig.pc(), rig.counter()) == (0, 0)
    rig.port.resume([Resume.RUN])
    wait_until(lambda: rig.counter() > 1000)
    rig.port.hold()
    before = rig.counter(), rig.pc()
    assert not rig.stopped.wait(0.05)
    assert (rig.counter(), rig.pc()) == before


def test_a_breakpoint_stops_the_guest_every_time(rig: Rig) -> None:
    """With the debugger's steps over it, the guest continues to count."""
    rig.port.set_points([CODE + STORE], [])
    for turn in range(1, 4):
        assert rig.go() == Stop(0, StopKind.BREAKPOINT)
        assert (rig.pc(), rig.counter(), rig.port.registers(0).x[7]) == (STORE, turn - 1, turn)
        assert rig.go(Resume.STEP) == Stop(0, StopKind.STEP)
        assert (rig.pc(), rig.counter()) == (CALL, turn)


def test_a_watchpoint_tells_what_was_touched(rig: Rig) -> None:
    """The stop comes before the store; the address is that of the first watched byte."""
    rig.port.set_points([], [Watch(DATA + 4, 2, Access.WRITE)])
    assert rig.go() == Stop(0, StopKind.WATCHPOINT, DATA + 4, is_write=True)
    assert (rig.pc(), rig.counter()) == (STORE, 0)
    rig.port.set_points([], [Watch(DATA, 8, Access.READ)])
    rig.port.resume([Resume.RUN])
    wait_until(lambda: rig.counter() > 10)


def test_every_vcpu_has_the_breakpoints(pair: Rig) -> None:
    """Both hit it; the first stop is reported, then, while that vCPU stays, the other one."""
    pair.port.set_points([CODE + LEAF], [])
    first = pair.go()
    assert first.kind is StopKind.BREAKPOINT
    other = 1 - first.cpu
    actions = [Resume.STAY, Resume.STAY]
    actions[other] = Resume.RUN
    assert pair.go(*actions) == Stop(other, StopKind.BREAKPOINT)
    assert pair.pc(0) == pair.pc(1) == LEAF


def test_a_vcpu_that_comes_on_later_has_the_breakpoints(realm: RealmOptions | None) -> None:
    """CPU_ON resets its registers, but not the debugger's settings."""
    with Rig(num_cpus=2, realm=realm) as rig:
        rig.attach()
        rig.port.set_points([CODE + START], [])
        rig.start()
        assert not rig.port.is_on(1)
        cpus = {rig.go().cpu}
        rig.port.set_points([], [])
        rig.go(*(Resume.STEP if cpu in cpus else Resume.STAY for cpu in range(2)))
        rig.port.set_points([CODE + START], [])
        cpus.add(rig.go().cpu)
        assert cpus == {0, 1}
        assert rig.port.is_on(1)


def test_one_vcpu_steps_while_the_other_stands_still(pair: Rig) -> None:
    """The debugger chooses whether the other one stands still or runs."""
    before = pair.counter(1)
    for _ in range(20):
        assert pair.go(Resume.STEP, Resume.STAY) == Stop(0, StopKind.STEP)
    assert pair.counter(1) == before
    pair.go(Resume.STEP, Resume.RUN)
    wait_until(lambda: pair.go(Resume.STEP, Resume.RUN) is not None and pair.counter(1) > before)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("ldr w1, [x9]", 4),  # a device
        ("str w1, [x9]", 4),
        ("hvc #0", 4),
        ("smc #0", 4),
        ("ldp x1, x2, [x10]", ABORTED),  # no device has pairs
        ("msr icc_sgi1r_el1, x11", 4),
        ("b .", 0),
        ("wfi", 4),
    ],
)
def test_what_leaves_the_guest_is_one_step(text: str, offset: int) -> None:
    """The host handles the exit, and then the step is over."""
    setup = f"ldr x9, ={UART + 4:#x}\n mov x10, #0x7f000000\n ldr x0, =0x84000000\n mov x11, #0"
    with Rig(f"{setup}\n msr vbar_el1, xzr\n target: {text}\n nop") as rig:
        rig.attach()
        rig.start()
        for _ in range(5):
            rig.go(Resume.STEP)
        here = rig.pc()
        rig.go(Resume.STEP)
        assert rig.pc() == (here + offset if offset != ABORTED else ABORTED - CODE)


@pytest.mark.parametrize(
    ("text", "register", "value"),
    [
        ("ldr w1, [x9]", 1, 0x80),  # a device, which the host emulates
        ("str w1, [x9]", 1, 0x1111),
        ("ldr x1, [x10]", 1, 0),  # memory that the host has yet to give
        ("smc #0", 1, 0x1_0000),  # an RSI call, which the RMM does
        (".long 0xd5380521", 1, 0),  # ID_AA64DFR1_EL1, which it answers for
        ("msr icc_sgi1r_el1, x11", 1, 0x1111),  # one that is the host's
        ("wfi", 1, 0x1111),
        (UNDEFINED_HVC, 1, 0x1111),
    ],
)
def test_what_leaves_a_realm_is_one_step(text: str, register: int, value: int) -> None:
    """This holds for exits to the RMM and to the host, with any number of entries."""
    first = 0x1_0000 if text == "smc #0" else 0x1111
    setup = f"""
        ldr x9, ={1 << 32 | UART + 4:#x}; ldr x10, ={DATA + DATA_SIZE:#x}; mov x11, #0
        ldr x0, =0xC4000190; mov x1, #{first:#x}; msr vbar_el1, xzr; {text}
    """
    with Rig(setup, realm=KINDS["realm"]) as rig:
        rig.attach()
        rig.start()
        for _ in range(6):
            assert rig.go(Resume.STEP) == Stop(0, StopKind.STEP)
        here = rig.pc()
        assert rig.go(Resume.STEP) == Stop(0, StopKind.STEP)
        assert rig.pc() == (ABORTED - CODE if text == UNDEFINED_HVC else here + 4)
        assert rig.port.registers(0).x[register] == value


def test_a_step_that_ends_the_guest(rig: Rig) -> None:
    """A step of SYSTEM_OFF ends it."""
    call = 0xD400_0003 if rig.is_realm else 0xD400_0002  # SMC or HVC
    rig.port.write(0, CODE, call.to_bytes(4, "little"))
    with rig.changed() as registers:
        registers.x[0] = 0x8400_0008
    rig.port.resume([Resume.STEP])
    assert rig.vm.wait(PATIENCE) is Outcome.OFF


def test_registers_are_those_of_the_guest(rig: Rig) -> None:
    """Each can be written and read back, and the guest uses the new value."""
    *plain, fpsr, fpcr = (*CORE[:-1], *FLOATING)
    with rig.changed() as registers:
        for n, register in enumerate(plain, 1):
            register.set(registers, n)
        fpsr.set(registers, 0x1F)
        fpcr.set(registers, 0x01C0_0000)
    registers = rig.port.registers(0)
    assert [register.get(registers) for register in plain] == list(range(1, len(plain) + 1))
    assert (fpsr.get(registers), fpcr.get(registers)) == (0x1F, 0x01C0_0000)
    with rig.changed() as registers:
        FLOATING[3].set(registers, (1 << 128) - 2)
        PC.set(registers, CODE + COUNT)
        CORE[7].set(registers, 41)
    assert FLOATING[3].get(rig.port.registers(0)) == (1 << 128) - 2
    rig.go(Resume.STEP)
    assert rig.port.registers(0).x[7] == 42


def test_the_stack_pointer_is_the_one_in_use(rig: Rig) -> None:
    """SP_EL1 at EL1h, SP_EL0 elsewhere."""
    with rig.changed() as registers:
        registers.sp_el0, registers.sp_el1 = 0x10, 0x20
        assert SP.get(registers) == 0x20
        PSTATE.set(registers, 0x3C4)
        assert SP.get(registers) == 0x10
        SP.set(registers, 0x30)
    registers = rig.port.registers(0)
    assert (registers.sp_el0, registers.sp_el1) == (0x30, 0x20)


@pytest.mark.parametrize("mode", [0x9, 0xD, 0x1, 0x10, 0x13, 0xC])
def test_no_guest_is_at_another_level(rig: Rig, mode: int) -> None:
    """EL2, EL3, EL0h and AArch32 are rejected, and nothing changes."""
    registers = rig.port.registers(0)
    with pytest.raises(BadValueError):
        PSTATE.set(registers, 0x3C0 | mode)
    assert PSTATE.get(registers) == 0x3C5


def test_system_registers_keep_what_is_implemented(rig: Rig) -> None:
    """Reserved bits cannot be set by a debugger either."""
    with rig.changed() as registers:
        for register in SYSTEM:
            register.set(registers, MASK64)
    registers = rig.port.registers(0)
    assert NAMED["TCR_EL1"].get(registers) not in {0, MASK64}
    assert NAMED["CNTV_CTL_EL0"].get(registers) & 3 == 3
    assert NAMED["TPIDR_EL1"].get(registers) == MASK64


# --- memory ---------------------------------------------------------------------------------------


def test_memory_is_read_and_written_across_pages(rig: Rig) -> None:
    """Any length, any alignment."""
    data = bytes(range(256)) * 40
    start = DATA + GRANULE_SIZE - 7
    rig.port.write(0, start, data)
    assert rig.port.read(0, start, len(data)) == data
    assert rig.is_realm or rig.vm.dma.read(start, len(data)) == data


def test_what_is_no_memory_is_a_fault(rig: Rig) -> None:
    """The fault is immediate if the start is unmapped; otherwise the part before it is used."""
    end = rig.memory_end
    for address in (0, UART, end, (1 << 64) - 8):
        with pytest.raises(DebugFault):
            rig.port.read(0, address, 4)
        with pytest.raises(DebugFault):
            rig.port.write(0, address, b"1234")
    assert rig.port.read(0, end - 4, 100) == bytes(4)
    assert rig.port.read(0, end, 0) == b""


def test_code_that_is_written_is_what_runs(rig: Rig) -> None:
    """This holds for code that has run before, too."""
    rig.port.resume([Resume.RUN])
    wait_until(lambda: rig.counter() > 100)
    rig.port.hold()
    rig.port.write(0, CODE + COUNT, bytes.fromhex("e7240091"))  # add x7, x7, #9
    rig.port.set_points([CODE + COUNT], [])
    rig.go()
    before = rig.port.registers(0).x[7]
    rig.go(Resume.STEP)
    assert rig.port.registers(0).x[7] == before + 9


def test_addresses_are_those_of_the_vcpu_s_own_tables(rig: Rig) -> None:
    """With stage 1 on, a page that EL1 must not access is visible at its address."""
    table, page = DATA + 0x1000, DATA + 0x6000
    for level in range(3):
        entry = table + 0x1000 * (level + 1) | 3
        rig.put(table + 0x1000 * level, entry.to_bytes(8, "little"))
    rig.put(table + 0x3000 + 8 * 5, (page | 3 | 1 << 10 | 3 << 6).to_bytes(8, "little"))
    rig.put(page, b"here")
    with rig.changed() as registers:
        NAMED["TTBR0_EL1"].set(registers, table)
        NAMED["TCR_EL1"].set(registers, 16 | 2 << 32 | 1 << 23)
        NAMED["SCTLR_EL1"].set(registers, 0x30D0_0981)
        PSTATE.set(registers, 0x3C5 | PAN)
    assert rig.port.read(0, 0x5000, 4) == b"here"
    rig.port.write(0, 0x5000, b"there")
    with rig.changed() as registers:
        NAMED["SCTLR_EL1"].set(registers, 0x30D0_0980)
    assert rig.port.read(0, page, 5) == b"there"
    with pytest.raises(DebugFault):
        rig.port.read(0, rig.memory_end, 1)


# --- breakpoints and their number -----------------------------------------------------------------


def test_too_many_points_are_refused_whole(rig: Rig) -> None:
    """The old points are kept."""
    rig.port.set_points([CODE + STORE], [])
    with pytest.raises(TooManyError):
        rig.port.set_points(range(MAX_BREAKPOINTS + 1), [])
    with pytest.raises(TooManyError):
        rig.port.set_points([], [Watch(0, 1, Access.READ)] * (MAX_WATCHPOINTS + 1))
    assert rig.go().kind is StopKind.BREAKPOINT
    rig.port.set_points(range(MAX_BREAKPOINTS), [Watch(0, 1, Access.READ)] * MAX_WATCHPOINTS)


def test_nothing_is_left_of_a_debugger_that_leaves(rig: Rig) -> None:
    """Breakpoints are gone, steps are over, the guest runs."""
    rig.port.set_points([CODE + STORE], [Watch(DATA, 8, Access.WRITE)])
    rig.go()
    rig.port.detach()
    wait_until(lambda: rig.counter() > 100)
    assert not rig.stopped.wait(0.05)
    rig.attach()
    before = rig.counter()
    rig.port.resume([Resume.RUN])
    wait_until(lambda: rig.counter() > before)


# --- looking without a debugger -------------------------------------------------------------------


def test_a_look_lets_the_guest_go_on(pair: Rig) -> None:
    """It stands still meanwhile, and cannot notice it."""
    pair.port.detach()
    for _ in range(20):
        with pair.port.still():
            before = pair.counter(0), pair.counter(1)
            assert pair.pc(0) >= START
            assert (pair.counter(0), pair.counter(1)) == before
    wait_until(lambda: pair.counter(0) > before[0] and pair.counter(1) > before[1])


def test_the_guest_goes_on_between_two_looks(pair: Rig) -> None:
    """Even if the second one follows at once, each vCPU runs, and makes progress some times."""
    pair.port.detach()
    seen = []
    for _ in range(LOOKS):
        with pair.port.still():
            seen.append((pair.counter(0), pair.counter(1)))
    assert all(len(set(counts)) > 1 for counts in zip(*seen, strict=True))


def test_a_look_at_a_guest_that_has_not_started(realm: RealmOptions | None) -> None:
    """It shows the initial state each time."""
    with Rig(realm=realm) as rig:
        for _ in range(2):
            with rig.port.still():
                assert rig.pc() == 0


def test_two_who_look_see_each_what_they_asked_for(rig: Rig) -> None:
    """A debugger and another reader read at the same time."""
    rig.put(DATA, b"memory of the guest")
    done, wrong = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            with rig.port.still():
                if rig.port.registers(0).pc != CODE:
                    wrong.append("registers")

    thread = threading.Thread(target=look)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        for _ in range(1000):
            assert rig.port.read(0, DATA, 19) == b"memory of the guest"
            assert rig.pc() == 0
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    assert not wrong


def test_a_guest_that_is_gone_is_looked_at_in_vain(realm: RealmOptions | None) -> None:
    """A late debugger does no harm; a normal VM's state is still readable."""
    with Rig(realm=realm) as rig:
        rig.attach()
        rig.start()
        rig.port.set_points([CODE + STORE], [])
        rig.go()
        rig.vm.close()
        for ask in (
            lambda: rig.port.registers(0),
            lambda: rig.port.set_registers(0, rig.port.registers(0)),
            lambda: rig.port.read(0, DATA, 8),
            lambda: rig.port.write(0, DATA, b"x"),
            lambda: rig.port.resume([Resume.STEP]),
        ):
            with suppress(DebugFault) if realm is None else pytest.raises(DebugFault):
                ask()
        rig.port.detach()


def test_a_look_at_a_stopped_guest_leaves_it_stopped(pair: Rig) -> None:
    """The debugger continues where it was."""
    before = pair.counter(0)
    with pair.port.still():
        pass
    assert not pair.stopped.wait(0.02)
    assert pair.counter(0) == before


def test_looks_and_stops_do_not_lose_each_other(rig: Rig) -> None:
    """A breakpoint that is hit during an inspection is reported once."""
    rig.port.set_points([CODE + STORE], [])
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with rig.port.still():
                rig.pc()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for turn in range(1, 101):
            assert rig.go() == Stop(0, StopKind.BREAKPOINT)
            assert rig.port.registers(0).x[7] == turn
            assert rig.go(Resume.STEP) == Stop(0, StopKind.STEP)
    finally:
        done.set()
        thread.join()


def test_time_stands_still_with_the_guest(vm: Rig) -> None:
    """The virtual counter does not count while the guest is stopped, on any vCPU."""
    vm.port.write(0, CODE, bytes.fromhex("41e03bd5"))  # mrs x1, cntvct_el0
    vm.go(Resume.STEP)
    first = vm.port.registers(0).x[1]
    vm.port.registers(0).pc = CODE
    time.sleep(0.3)
    vm.go(Resume.STEP)
    passed = (vm.port.registers(0).x[1] - first) / vm.machine.counter_frequency
    assert passed < 0.25


def test_an_serror_is_taken_when_it_is_unmasked(vm: Rig) -> None:
    """It is taken at EL1's vector, once, with its exception class."""
    NAMED["VBAR_EL1"].set(vm.port.registers(0), 0x8000_0800)
    vm.vm.send_serror(0)
    vm.port.set_points([CODE + STORE, 0x8000_0800 + 0x380], [])
    vm.go()
    assert vm.pc() == STORE, "it is masked"
    PSTATE.set(vm.port.registers(0), 5)
    vm.go()
    assert vm.port.registers(0).pc == 0x8000_0800 + 0x380
    assert NAMED["ESR_EL1"].get(vm.port.registers(0)) >> 26 == 0x2F
    vm.port.set_points([CODE + STORE], [])
    PSTATE.set(vm.port.registers(0), 5)
    vm.port.registers(0).pc = CODE + COUNT
    vm.go()
    assert vm.pc() == STORE, "it is not pending any more"


def test_a_guest_that_is_stopped_can_be_ended(rig: Rig) -> None:
    """The user can end it while a debugger holds it."""
    rig.vm.stop()
    assert rig.vm.wait(PATIENCE) is Outcome.STOPPED


def test_a_guest_ends_while_its_debugger_lets_it_run(realm: RealmOptions | None) -> None:
    """No stop is reported; the port still answers."""
    with Rig(OFF, realm=realm) as rig:
        rig.attach()
        rig.start()
        rig.port.resume([Resume.RUN])
        assert rig.vm.wait(PATIENCE) is Outcome.OFF
        rig.port.hold()
        assert rig.port.take_stop() is None
        assert rig.pc() == 8
