"""The lab's composition root: a machine with firmware, whole or broken, and a hostile host on it.

Like ``pyvmm.platform``, it passes on narrow interfaces only: the host gets the SMC of the
Non-secure state, Non-secure memory and the PEs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from monitor.hes import FirmwareImage
from monitor.monitor import Conduit, Monitor
from pyvmm.arch.events import EventStream
from pyvmm.arch.hcr import HCR_EL2
from pyvmm.arch.machine import PeContext, PeExit, PhysicalMemory
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmi import EXIT_OFFSET, RecExit, RmiFid
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.arch.smccc import call_series
from pyvmm.arch.sysregs import DEFAULT_FEATURES
from pyvmm.core import Clock, Machine
from pyvmm.lab.attack import Break
from pyvmm.lab.breaks import UncheckedMemory, after_boot, build_rmm
from pyvmm.lab.host import Host
from pyvmm.lab.owner import Owner
from pyvmm.lab.witness import Witness
from pyvmm.platform import RMM_SLOT, boot_images
from pyvmm.root_of_trust import RootOfTrust
from pyvmm.token.generations import Generation
from pyvmm.token.reference import PlatformValues
from pyvmm.token.trust import TrustStore
from rmm import protocols
from rmm.commands import RmiCommand
from rmm.rmm import Rmm

DRAM_BASE: Final = 0x8000_0000
DRAM_SIZE: Final = 32 << 20
NUM_PES: Final = 3
_HCR: Final = int(HCR_EL2.of(RW=1))
_BUDGET: Final = 1000  # instructions of the host's own code
_BROKEN: Final = "lab-broken"  # the version of an RMM without some checks


def firmware(broken: Sequence[Break]) -> list[FirmwareImage]:
    """Return the images that EL3 measures; a broken RMM is another one, with another version."""
    images = boot_images(Clock.REAL, DEFAULT_FEATURES)
    if not broken:
        return images
    names = "+".join(sorted(broken))
    return [
        replace(each, version=_BROKEN, data=each.data + f"lab: no {names}".encode())
        if each.slot == RMM_SLOT
        else each
        for each in images
    ]


class World:
    """One booted machine.

    Args:
        owner: who verifies tokens.
        broken: the checks to leave out.
        root_of_trust: the connection to the HES, not powered on yet; None: no attestation.
        revision: the revision of RMI that the host uses.
    """

    def __init__(
        self,
        owner: Owner,
        broken: Sequence[Break] = (),
        root_of_trust: RootOfTrust | None = None,
        revision: int = VERSION_1_0,
    ) -> None:
        machine = Machine(DRAM_BASE, DRAM_SIZE, NUM_PES)
        events = EventStream()
        mailbox = root_of_trust.mailbox if root_of_trust else None
        monitor = Monitor(machine, events, mailbox)
        if root_of_trust is not None:
            root_of_trust.power_on()
            monitor.measure(firmware(broken))

        def make(
            kind: type[Rmm],
            seen: protocols.Machine,
            revisions: Mapping[int, Mapping[int, RmiCommand]],
        ) -> Rmm:
            return kind(seen, monitor.conduit(Pas.REALM), revisions, events, Generation.G1)

        rmm = build_rmm(cast("protocols.Machine", machine), make, broken)
        monitor.boot(rmm)
        after_boot(rmm, broken)
        memory: PhysicalMemory = machine.memory(Pas.NS)
        if Break.GPC in broken:
            memory = UncheckedMemory(machine, monitor)
        self.witness = Witness(machine, monitor, rmm)
        tap = Tap(monitor.conduit(Pas.NS), memory, self.witness)
        dram = (DRAM_BASE, monitor.layout.ns_size)
        hardware, announce = NormalWorld(machine), self.witness.victim
        self.host = Host(tap, tap, hardware, dram, owner, announce, revision)


def new_world() -> World:
    """Return a machine without a root of trust, for lessons: its host can be any student."""
    return World(Owner(TrustStore(), PlatformValues(), b""))


class NormalWorld:
    """What the normal world has of a machine, besides memory and the SMC."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def run(self, pe: int, pc: int, *gprs: int) -> tuple[PeExit, int]:
        """Run Non-secure code at EL1, without translation; return its exit and X0."""
        context = self._machine.new_context()
        context.security = Pas.NS
        context.hcr_el2 = _HCR
        context.pc = pc
        for number, value in enumerate(gprs):
            context.x[number] = value
        leave = self._machine.pe(pe).run(context, _BUDGET)
        return leave, context.x[0]

    def kick(self, pe: int, /) -> None:
        """Interrupt a PE."""
        self._machine.pe(pe).kick()

    def counter(self) -> int:
        """Return CNTPCT_EL0."""
        return self._machine.counter()

    def interface(self, pe: int, /) -> PeContext:
        """Return ICH_*_EL2 of a PE."""
        context: PeContext = self._machine.pe(pe).interface
        return context


class Tap:
    """The host's SMC and memory; the witness sees all that the host learns through them."""

    def __init__(self, conduit: Conduit, memory: PhysicalMemory, witness: Witness) -> None:
        self._conduit = conduit
        self._memory = memory
        self._witness = witness

    def smc_series(
        self, pe: int, args: Sequence[int], steps: Sequence[int], count: int
    ) -> tuple[int, tuple[int, ...]]:
        """Call EL3 one by one."""
        return call_series(self.smc, pe, args, steps, count)

    def smc(self, pe: int, args: Sequence[int]) -> tuple[int, ...]:
        """Call EL3."""
        results = self._conduit.smc(pe, args)
        self._witness.saw_words(results[len(args) :] if len(results) > len(args) else results)
        if args[0] == RmiFid.RMI_REC_ENTER and not results[0]:
            exit_record = self._memory.read(args[2] + EXIT_OFFSET, RecExit.size)
            self._witness.saw_bytes("an exit record", exit_record)
        return tuple(results)

    def read(self, pa: int, size: int) -> bytes:
        """Return bytes."""
        data = self._memory.read(pa, size)
        self._witness.saw_bytes("a read of memory", data)
        return data

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes."""
        self._memory.write(pa, data)

    def zero(self, pa: int, size: int) -> None:
        """Store zeros."""
        self._memory.zero(pa, size)

    def view(self, pa: int, size: int) -> memoryview:
        """Return a window."""
        return self._memory.view(pa, size)
