"""A realm execution context (REC): a vCPU of a realm, and its pending operation between entries."""

from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.el1 import SCTLR_EL1
from pyvmm.arch.gic import MPIDR_RES1
from pyvmm.arch.hcr import CNTHCTL_EL2, CPTR_EL2, HCR_EL2, MDCR_EL2, MDCR_NO_PMU
from pyvmm.arch.machine import PeContext, PeDebug
from pyvmm.arch.pas import Pas
from pyvmm.arch.pstate import EL1H_MASKED, SPSR_EL1
from pyvmm.arch.rmi import RecExitReason, RecParams
from pyvmm.arch.stage2 import VTTBR_VMID_SHIFT, vtcr
from pyvmm.token.generations import Generation
from rmm.protocols import Machine
from rmm.realm import Limits, Realm

#: The realm's traps and routing; the host chooses TWI and TWE at each entry.
HCR: Final = int(
    HCR_EL2.of(
        VM=1, SWIO=1, PTW=1, FMO=1, IMO=1, AMO=1, TID3=1, TSC=1, RW=1, E2H=1, TEA=1, APK=1, API=1,
        FWB=1,
    )
)  # fmt: skip
PSTATE_SS: Final = SPSR_EL1.SS.mask
SCTLR_EL1_RESET: Final = 0x30C5_0830  # the bits that are RES1 before any extension
SCTLR_EL1_EE: Final = SCTLR_EL1.EE.mask
CPTR_NO_TRAPS: Final = int(CPTR_EL2.of(FPEN=0b11))
#: The physical counter and timer, with and without E2H.
CNTHCTL_NO_TRAPS: Final = int(CNTHCTL_EL2.of(EL1PCTEN=1, EL1PCEN=1, EL1PCTEN_E2H=1, EL1PTEN_E2H=1))
NUM_GPRS: Final = 31


class RipasChange:
    """A RIPAS change requested by the realm; the host performs it from ``base`` upwards."""

    __slots__ = ("base", "change_destroyed", "ripas", "top")

    def __init__(self, base: int, top: int, ripas: int, *, change_destroyed: bool) -> None:
        self.base = base
        self.top = top
        self.ripas = ripas
        self.change_destroyed = change_destroyed


class HostExit:
    """The host's view of an exit; fields that are not given are zero."""

    __slots__ = ("esr", "far", "gprs", "hpfar", "imm", "reason", "ripas_change")

    def __init__(
        self,
        reason: RecExitReason,
        esr: int = 0,
        far: int = 0,
        hpfar: int = 0,
        gprs: tuple[int, ...] = (),
    ) -> None:
        self.reason = reason
        self.esr = esr
        self.far = far
        self.hpfar = hpfar
        self.gprs = gprs
        self.ripas_change: RipasChange | None = None
        self.imm = 0


class PsciRequest:
    """A PSCI call on another REC, which the host has to complete."""

    __slots__ = ("context_id", "entry", "is_cpu_on", "target")

    def __init__(
        self, target: int, *, is_cpu_on: bool, entry: int = 0, context_id: int = 0
    ) -> None:
        self.target = target  # index of a REC
        self.is_cpu_on = is_cpu_on  # otherwise AFFINITY_INFO
        self.entry = entry
        self.context_id = context_id


#: ESR_EL2 and FAR_EL2 of a data abort at an unprotected IPA: the host may emulate the access.
Abort = tuple[int, int]


class TokenRequest:
    """An attestation in progress: the challenge, then the token and the number of bytes read."""

    __slots__ = ("challenge", "generation", "is_pushed", "offset", "payload", "ticket", "token")

    def __init__(self, challenge: bytes, ticket: int) -> None:
        self.challenge = challenge
        self.generation = Generation.G1  # of the token; from the first CONTINUE on
        self.ticket = ticket  # identifies the request of a signature
        self.payload = b""  # of the realm token; empty until the first CONTINUE
        self.is_pushed = False  # EL3 has the request
        self.token: bytes | None = None  # None until it is signed; empty if that failed
        self.offset = 0


class Rec:
    """The REC that a REC granule represents.

    ``running`` is true while a PE runs it; the context then belongs to that PE, and no command
    accesses it.
    """

    __slots__ = (
        "abort", "aux", "context", "debug", "has_lrs", "host_call_ipa", "index", "pa", "psci",
        "realm", "ripas_change", "runnable", "running", "step_from", "sysreg_rt", "token_request",
    )  # fmt: skip

    def __init__(self, pa: int, realm: Realm, index: int, params: RecParams) -> None:
        self.pa = pa
        self.realm = realm
        self.index = index
        self.aux = params.aux[: params.num_aux]  # set later in RMI 2.0
        self.context: PeContext
        self.has_lrs = False  # the context has list registers that are not zero
        self.runnable = bool(params.flags & 1)
        self.running = False
        self.token_request: TokenRequest | None = None
        self.debug: PeDebug  # only if the realm may be debugged
        self.step_from: int | None = None  # PC of the instruction to single-step
        # Completed by the next entry:
        self.psci: PsciRequest | None = None
        self.ripas_change: RipasChange | None = None
        self.host_call_ipa: int | None = None
        self.abort: Abort | None = None
        self.sysreg_rt: int | None = None  # register of a trapped read

    @property
    def is_incomplete(self) -> bool:
        """Whether the next entry has to complete an operation on its registers."""
        pending = (self.psci, self.ripas_change, self.host_call_ipa, self.abort, self.sysreg_rt)
        return any(each is not None for each in pending)

    @property
    def has_stepped(self) -> bool:
        """Whether the instruction at ``step_from`` has been executed."""
        return self.context.pc != self.step_from

    def reply(self, *results: int) -> None:
        """Write the results of the realm's SMC to x0.., filling x0 to x3 with zeros."""
        x = self.context.x
        for index, value in enumerate(results):
            x[index] = value
        for index in range(len(results), 4):
            x[index] = 0

    def advance(self) -> None:
        """Skip the trapped instruction; this completes a software step of it."""
        context = self.context
        context.pc = context.pc + 4 & MASK64
        pstate = context.pstate
        if pstate & PSTATE_SS:
            context.pstate = pstate & ~PSTATE_SS


def make_context(machine: Machine, limits: Limits, rec: Rec, params: RecParams) -> PeContext:
    """Make the initial PE state of a new REC."""
    realm = rec.realm
    context = machine.new_context()
    context.security = Pas.REALM
    context.pc = params.pc
    context.pstate = EL1H_MASKED
    for index, value in enumerate(params.gprs):
        context.x[index] = value
    context.sctlr_el1 = SCTLR_EL1_RESET
    context.hcr_el2 = HCR
    context.vtcr_el2 = vtcr(
        realm.rtt.ipa_bits, realm.rtt.start_level, limits.pa_range, vmid16=limits.vmid_bits == 16
    )
    context.vttbr_el2 = realm.rtt.start[0].pa | realm.vmid << VTTBR_VMID_SHIFT
    context.vmpidr_el2 = vmpidr(rec.index)
    context.vpidr_el2 = machine.id_register(3, 0, 0, 0, 0)  # MIDR_EL1
    context.cptr_el2 = CPTR_NO_TRAPS
    context.cnthctl_el2 = CNTHCTL_NO_TRAPS
    context.cntvoff_el2 = 0
    context.mdcr_el2 = MDCR_EL2.of(HPMN=realm.num_counters) if realm.num_counters else MDCR_NO_PMU
    return context


def reset(rec: Rec, caller: PeContext, request: PsciRequest) -> None:
    """Set the target of a CPU_ON to its reset state, with the caller's endianness.

    Spec: DEN0137 1.0, RMI_PSCI_COMPLETE, success condition on_success.
    """
    context = rec.context
    context.pstate = EL1H_MASKED
    context.sctlr_el1 = SCTLR_EL1_RESET | caller.sctlr_el1 & SCTLR_EL1_EE
    context.pc = request.entry
    for index in range(NUM_GPRS):
        context.x[index] = 0
    context.x[0] = request.context_id
    rec.runnable = True


def vmpidr(index: int) -> int:
    """Return the MPIDR_EL1 of the REC at a linear index.

    >>> hex(vmpidr(17))
    '0x80000101'
    """
    aff0_2 = index & 0xF | (index >> 4 & 0xFF) << 8 | (index >> 12 & 0xFF) << 16
    return MPIDR_RES1 | aff0_2 | (index >> 20 & 0xFF) << 32


def index_of(mpidr: int) -> int:
    """Return the linear index of the REC with a PSCI target, in the layout of MPIDR_EL1.

    >>> index_of(vmpidr(17))
    17
    """
    aff0_2 = mpidr & 0xF | (mpidr >> 8 & 0xFF) << 4 | (mpidr >> 16 & 0xFF) << 12
    return aff0_2 | (mpidr >> 32 & 0xFF) << 20
