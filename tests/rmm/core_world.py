"""The world of the RMM's tests on the real machine, under the real Monitor.

Unless a test wants to run code, PEs that enter a realm do the steps that the test gives them;
memory, GPT, contexts, invalidations and translations are those of the core in any case.
"""

from collections.abc import Mapping
from typing import cast

from monitor.monitor import Monitor
from pyvmm.arch.gpt import Gpi
from pyvmm.arch.pas import Pas
from pyvmm.arch.rmi import RecParams
from pyvmm.core import Machine, PeContext
from rmm import protocols
from rmm.commands import RmiCommand
from rmm.realm import Realm
from rmm.rec import Rec, make_context
from rmm.rmi import REVISIONS
from rmm.rmm import Rmm
from tests.core.walk import Walker
from tests.rmm.world import DRAM_BASE, DRAM_SIZE, NUM_PES, SHARED_PA, FakePe, Host

FIRMWARE_SIZE = 4 << 20  # the RMM's and EL3's own memory
NUM_TRANSLATORS = 8  # PEs that translate addresses for a test, and keep their translations
GPF = 0x28  # fault status code


def boot(machine: Machine) -> tuple[Monitor, Rmm]:
    """Boot the firmware of a real machine."""
    monitor = Monitor(machine)
    rmm = Rmm(as_protocol(machine), monitor.conduit(Pas.REALM), REVISIONS)
    assert monitor.boot(rmm) == 0
    return monitor, rmm


def as_protocol(machine: Machine) -> protocols.Machine:
    """Give a machine the RMM's type for it: cffi's structs have no Python type."""
    return cast("protocols.Machine", machine)


class ScriptedMachine:
    """A machine whose PEs run scripted steps."""

    def __init__(self, core: protocols.Machine) -> None:
        self.memory = core.memory
        self.new_context = core.new_context
        self.new_debug = core.new_debug
        self.new_record = core.new_record
        self.lend_debug = core.lend_debug
        self.list_registers = core.list_registers
        self.copy_interface = core.copy_interface
        self.tlbi_ipa = core.tlbi_ipa
        self.tlbi_vmid = core.tlbi_vmid
        self.id_register = core.id_register
        self.pes = [FakePe() for _ in range(NUM_PES)]
        for pe in self.pes:
            pe.interface = core.new_context()

    def pe(self, index: int) -> FakePe:
        """Return a PE."""
        return self.pes[index]


class CoreWorld(Host):
    """The real machine and its host."""

    num_translators = NUM_TRANSLATORS

    def __init__(
        self,
        *,
        is_scripted: bool = True,
        num_pes: int = NUM_PES,
        revisions: Mapping[int, Mapping[int, RmiCommand]] = REVISIONS,
    ) -> None:
        super().__init__()
        self.num_pes = num_pes
        self.core = Machine(DRAM_BASE, DRAM_SIZE + FIRMWARE_SIZE, num_pes + NUM_TRANSLATORS)
        self.machine = as_protocol(self.core)
        self.pes = []
        if is_scripted:
            self.machine = scripted = ScriptedMachine(self.machine)
            self.pes = scripted.pes
        self.monitor = Monitor(self.core)
        self.rmm = Rmm(self.machine, self.monitor.conduit(Pas.REALM), revisions)
        assert self.monitor.boot(self.rmm) == 0
        assert self.monitor.layout.shared_pa == SHARED_PA
        self._smc = self.monitor.conduit(Pas.NS).smc
        self.ns = self.core.memory(Pas.NS)
        self.realm_memory = self.core.memory(Pas.REALM)
        gpt = self.monitor.gpt
        self.walker = Walker(self.core, gpt.base_pa, int(gpt.gpccr))

    def call(self, fid: int, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Issue a command as an SMC; returns x0..x4."""
        return (*self._smc(pe, (fid, *args)), 0, 0, 0, 0, 0)[:5]

    def is_realm(self, pa: int) -> bool:
        """Ask the GPT whether a granule is in the Realm PAS."""
        return self.monitor.gpi(pa) is Gpi.REALM

    # --- a realm's view --------------------------------------------------------------------

    def context_of(self, realm: Realm) -> PeContext:
        """Return the context of a REC of a realm, with stage 1 off."""
        rec = Rec(0, realm, 0, RecParams())
        return make_context(self.machine, self.rmm.limits, rec, RecParams())

    def translate(self, context: PeContext, ipa: int, translator: int = 0) -> tuple[int, Pas] | int:
        """Translate in C and in Python; return PA and PAS, or the fault status code."""
        pe = self.core.pe(self.num_pes + translator)
        fault, pa, pas, is_stage2 = pe.translate(context, ipa)
        in_python = self.walker.translate(context, ipa)
        if fault:
            assert (fault, 0, Pas.SECURE, is_stage2) == in_python
            assert is_stage2
            return fault
        assert (0, pa, pas, False) == in_python
        return pa, pas
