"""The host of the lab: hostile software in the normal world, and what it can use.

It has what a real one has: Non-secure memory, PEs, devices, and the SMC.  It reaches the realm
world only through these.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from pyvmm.arch.esr import ESR_ABORT
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.machine import PeContext, PeExit, PhysicalMemory
from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault
from pyvmm.arch.rmi import STATUS_MEANINGS, RmiFid, status_name, unpack_status
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.arch.rmi_revisions import VERSION_1_0, VERSION_2_0
from pyvmm.arch.rmmd import RmmdFid
from pyvmm.arch.smccc import UNKNOWN
from pyvmm.host.allocator import Allocator
from pyvmm.host.dma import LinearMemory
from pyvmm.host.machine import Firmware
from pyvmm.host.rmi import Rmi, RmiFailed
from pyvmm.host.rmi_1_0 import Rmi10
from pyvmm.host.rmi_2_0 import Rmi20
from pyvmm.lab import code
from pyvmm.lab.owner import Owner

T = TypeVar("T")
_NOT_SUPPORTED: Final = UNKNOWN[0]


class HostFailure(Exception):
    """What the host tried did not work."""


class Refused(HostFailure):
    """The RMM or EL3 refused a call."""

    def __init__(self, name: str, x0: int) -> None:
        meaning = STATUS_MEANINGS.get(unpack_status(x0)[0], "the function does not exist")
        status = status_name(x0) if x0 != _NOT_SUPPORTED else "NOT_SUPPORTED"
        super().__init__(f"{name} = {status}: {meaning}")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the failure of a call of the dialect into `Refused`."""
    try:
        yield
    except RmiFailed as failure:
        raise Refused(failure.fid.name, failure.x0) from None


class AccessFault(HostFailure):
    """A PE of the host took an exception instead of an access."""


@dataclass(frozen=True)
class Step:
    """One step of an attack, and how it ended."""

    what: str
    result: str
    is_refused: bool = False


class Hardware(Protocol):
    """The part of the machine that the normal world has."""

    def run(self, pe: int, pc: int, *gprs: int) -> tuple[PeExit, int]:
        """Run a little Non-secure code with X0.. = ``gprs``; return its exit and X0."""

    def kick(self, pe: int, /) -> None:
        """Interrupt a PE."""

    def counter(self) -> int:
        """Return CNTPCT_EL0."""

    def interface(self, pe: int, /) -> PeContext:
        """Return ICH_*_EL2 of a PE."""


class Host:
    """A hostile host.  PEs 0 and 1 are for its realms; PE 2 is for code of its own."""

    def __init__(
        self,
        conduit: Firmware,
        memory: PhysicalMemory,
        hardware: Hardware,
        dram: tuple[int, int],
        owner: Owner,
        announce: Callable[[int, int], None],
        revision: int = VERSION_1_0,
    ) -> None:
        """``announce`` tells the lab of a realm with a secret: its RD and its REC.

        ``revision`` is the revision of RMI that the host uses.
        """
        self.memory = memory
        self.hardware = hardware
        self.owner = owner
        self.steps: list[Step] = []
        self.announce = announce
        self.vmids = iter(range(1, 1 << 16))
        self._conduit = conduit
        self.dram = dram  # base and size of what is the normal world's
        self.claims: list[tuple[int, int]] = []
        self._allocator = Allocator(*dram)
        self.revision = revision
        self.dialect: Rmi = (
            Rmi20(conduit, memory, self._allocator)
            if revision == VERSION_2_0
            else Rmi10(conduit, memory, self._allocator, 0)
        )
        self.dialect.begin()

    # --- what happens ---------------------------------------------------------------------

    def note(self, what: str, result: object = "done") -> None:
        """Record a step."""
        self.steps.append(Step(what, str(result)))

    def attempt(self, what: str, call: Callable[[], T]) -> T | None:
        """Try something and record how it ended; None if it was refused."""
        try:
            result = call()
        except (HostFailure, GranuleProtectionFault) as refusal:
            text = str(refusal)
            if isinstance(refusal, GranuleProtectionFault):
                text = f"granule protection fault at {refusal.pa:#x}"
            self.steps.append(Step(what, text, is_refused=True))
            return None
        self.steps.append(Step(what, "accepted"))
        return result

    def claim(self, value: int, mask: int) -> None:
        """Claim to know bits of a secret's first word; the witness says whether it is true."""
        self.claims.append((value, mask))

    # --- calls ----------------------------------------------------------------------------

    def smc(self, fid: int, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Execute an SMC with x0.. = ``fid``, ``args``; return x0.. ."""
        return tuple(self._conduit.smc(pe, (fid, *args)))

    def rmi(self, fid: RmiFid | Rmi2Fid | DebugRmiFid, *args: int, pe: int = 0) -> tuple[int, ...]:
        """Issue an RMI command; return its outputs.

        Raises: Refused.
        """
        return self.call(fid, *args, pe=pe)

    def call(
        self, fid: RmiFid | Rmi2Fid | DebugRmiFid | RmmdFid, *args: int, pe: int = 0
    ) -> tuple[int, ...]:
        """Execute an SMC that should return 0 in X0; return X1.. .

        Raises: Refused.
        """
        x0, *outputs = self.smc(fid, *args, pe=pe)
        if x0:
            raise Refused(fid.name, x0)
        return tuple(outputs)

    def present(self, what: str, token: bytes, challenge: bytes) -> bool:
        """Show a realm's owner a token; return whether it is believed."""
        defects = self.owner.defects(token, challenge)
        result = "the owner refuses it: " + "; ".join(defects.values())
        self.steps.append(Step(what, result if defects else "the owner believes it", bool(defects)))
        return not defects

    # --- memory ---------------------------------------------------------------------------

    def granule(self, data: bytes = b"", *, count: int = 1, align: int = GRANULE_SIZE) -> int:
        """Allocate granules of the host in a row, with content."""
        pa = self._allocator.allocate(count * GRANULE_SIZE, align)
        if data:
            self.memory.write(pa, data)
        return pa

    def delegated(self, count: int = 1, align: int = GRANULE_SIZE) -> int:
        """Allocate granules in a row, and delegate them; return the first."""
        first = self.granule(count=count, align=align)
        self.delegate(first, count)
        return first

    def delegate(self, pa: int, count: int = 1) -> None:
        """Delegate granules in a row.

        Raises: Refused.
        """
        with refusals():
            self.dialect.delegate(0, pa, count)

    def undelegate(self, pa: int) -> None:
        """Take a granule back.

        Raises: Refused.
        """
        with refusals():
            self.dialect.undelegate(0, pa)

    def device(self) -> LinearMemory:
        """Return what a device of the host sees: physical addresses."""
        base, size = self.dram
        return LinearMemory(self.memory, base, size, base)

    # --- code -----------------------------------------------------------------------------

    def access(self, pa: int, value: int | None = None) -> int:
        """Load 8 bytes with an instruction on PE 2, or store ``value``.

        Raises: AccessFault.
        """
        program = code.words(code.LOAD if value is None else code.STORE)
        leave, x0 = self.hardware.run(2, self.granule(program), 0, pa, value or 0)
        if leave.reason == ExitReason.SYNC:
            status = leave.esr & ESR_ABORT.FSC.mask
            raise AccessFault(f"data abort, ESR {leave.esr:#x}: fault status {status:#x}")
        return x0
