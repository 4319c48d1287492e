"""Stolen time: a normal VM reads how long its vCPUs were ready and did not run."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyvmm.arch.pas import Pas
from pyvmm.arch.pv_time import RECORD_SIZE, PvTimeFid
from pyvmm.arch.smccc import NOT_SUPPORTED, SmcccFid
from pyvmm.host.guest import GuestConfig, Outcome, Segment
from pyvmm.host.stolen_time import StolenTime
from pyvmm.host.vgic import Vgic
from pyvmm.platform import Platform
from tests.core.program import assemble
from tests.host.debug_rig import CODE, DATA, PATIENCE, RAM_BASE, RAM_SIZE
from tests.host.fakes import FakeBus

RECORDS = 0x0102_0000

#: Asks as Linux does, then waits until some time is stolen.  DATA gets the answers.
GUEST = f"""
    ldr  x19, ={DATA:#x}
    ldr  x0, ={int(SmcccFid.SMCCC_ARCH_FEATURES):#x}
    ldr  x1, ={int(PvTimeFid.PV_TIME_FEATURES):#x}
    hvc  #0
    str  x0, [x19], #8
    ldr  x0, ={int(PvTimeFid.PV_TIME_FEATURES):#x}
    ldr  x1, ={int(PvTimeFid.PV_TIME_ST):#x}
    hvc  #0
    str  x0, [x19], #8
    ldr  x0, ={int(PvTimeFid.PV_TIME_ST):#x}
    hvc  #0
    str  x0, [x19], #8
    mov  x20, x0
    tbnz x20, #63, off
    ldr  x0, [x20]
    str  x0, [x19], #8
wait:
    ldr  x0, ={int(SmcccFid.SMCCC_VERSION):#x}
    hvc  #0
    ldr  x1, [x20, #8]
    cbz  x1, wait
off:
    ldr  x0, =0x84000008
    hvc  #0
"""


@pytest.fixture
def competitor() -> Iterator[None]:
    """Confine this process to one processor, with another one that uses it all the time."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    busy.kill()
    busy.wait()
    os.sched_setaffinity(0, allowed)


def answers(stolen_time: int | None) -> list[int]:
    """Run the guest; return its results."""
    platform = Platform(RAM_SIZE, 1)
    segments = (Segment(CODE, assemble(GUEST)), Segment(DATA, bytes(64)))
    config = GuestConfig(1, RAM_BASE, RAM_SIZE, segments, CODE, stolen_time=stolen_time)
    vm = platform.new_guest(config, FakeBus(), Vgic(1), None)
    try:
        vm.start()
        assert vm.wait(PATIENCE) is Outcome.OFF
        data = vm.dma.read(DATA, 32)
    finally:
        vm.close()
    return [int.from_bytes(data[n : n + 8], "little") for n in range(0, 32, 8)]


@pytest.mark.usefixtures("competitor")
def test_a_guest_learns_of_time_that_others_have_used() -> None:
    """The calls of Linux find the record; revision and attributes are 0."""
    assert answers(RECORDS) == [0, 0, RECORDS, 0]


def test_a_guest_without_records_is_not_offered_any() -> None:
    """A realm, and a hypervisor without the calls, behave in the same way."""
    assert answers(None)[:3] == [NOT_SUPPORTED] * 3


def test_each_vcpu_has_a_record_and_the_page_is_given_back() -> None:
    """Records are 64 bytes apart, in a page outside RAM."""
    platform = Platform(RAM_SIZE, 4)
    free = platform._allocator.free_size
    config = GuestConfig(4, RAM_BASE, RAM_SIZE, (), CODE, stolen_time=RECORDS)
    vm = platform.new_guest(config, FakeBus(), Vgic(4), None)
    records = vm._stolen_time  # type: ignore[attr-defined]
    assert isinstance(records, StolenTime)
    found = [records.call(cpu, PvTimeFid.PV_TIME_ST, 0) for cpu in range(4)]
    assert found == [RECORDS + RECORD_SIZE * cpu for cpu in range(4)]
    assert records.call(0, PvTimeFid.PV_TIME_FEATURES, 0) == NOT_SUPPORTED
    records.update(0)
    vm.close()
    assert platform._allocator.free_size == free
    assert platform.machine.memory(Pas.NS).read(records._pa, 4096) == bytes(4096)
