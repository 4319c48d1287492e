"""A realm: its state, its tables and its measurements."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pyvmm.arch.events import EventStream
from pyvmm.arch.islet import RealmMetadata
from pyvmm.arch.rmi import RealmFlags, RealmParams
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.token.claims import UEID_RANDOM
from rmm.measurement import Measurements
from rmm.rtt import RttTree

#: Returns so many random bytes.
Entropy = Callable[[int], bytes]

INSTANCE_ID_SIZE: Final = 32  # random bytes after the type of the identifier


class RealmState(Enum):
    """State of a realm: NEW until it is activated, SYSTEM_OFF after it has turned itself off.

    A ZOMBIE was terminated by its host, in RMI 2.0: none of its RECs can be entered again.
    """

    NEW = 0
    ACTIVE = 1
    SYSTEM_OFF = 2
    ZOMBIE = 3


class Realm:
    """The realm that an RD granule represents."""

    __slots__ = (
        "donated",
        "hash_algo",
        "instance_id",
        "is_debuggable",
        "measurements",
        "metadata",
        "metadata_pa",
        "num_bps",
        "num_counters",
        "num_live_recs",
        "num_recs",
        "num_wps",
        "rd",
        "recs",
        "revision",
        "rpv",
        "rtt",
        "state",
        "vmid",
    )

    def __init__(
        self,
        rd: int,
        params: RealmParams,
        rtt: RttTree,
        events: EventStream,
        revision: int,
        entropy: Entropy,
    ) -> None:
        """``revision`` is that of RMI by which the host makes it."""
        self.rd = rd
        self.revision = revision
        self.rtt = rtt
        self.state = RealmState.NEW
        self.vmid = params.vmid
        self.rpv = params.rpv
        self.instance_id = UEID_RANDOM + entropy(INSTANCE_ID_SIZE)
        self.hash_algo = params.hash_algo
        self.num_bps = params.num_bps  # minus one, as in ID_AA64DFR0_EL1
        self.num_wps = params.num_wps
        self.num_counters = params.pmu_num_ctrs if params.flags & RealmFlags.PMU else 0
        self.measurements = Measurements(rd, params, events, revision)
        self.metadata: RealmMetadata | None = None  # provided by its owner
        self.metadata_pa = 0
        self.is_debuggable = False  # by the host; if so, it is measured
        self.num_recs = 0  # created so far: the index of the next one
        self.num_live_recs = 0  # created and not destroyed
        self.recs: dict[int, int] = {}  # the granule of each REC by its index
        self.donated: list[int] = []  # granules lent to the realm

    def has_rec(self, index: int) -> bool:
        """Return whether a PSCI call may name a REC: in RMI 1.0, even one that was destroyed."""
        if self.revision == VERSION_1_0:
            return index < self.num_recs
        return index in self.recs


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a realm on this RMM and machine."""

    s2sz: int  # widest IPA space, in bits
    pa_range: int  # as ID_AA64MMFR0_EL1.PARange
    num_bps: int  # minus one
    num_wps: int  # minus one
    num_counters: int  # event counters of the PMU; 0: no PMU
    vmid_bits: int
    max_recs_order: int = 10  # 2^n - 1 RECs
    rec_aux_count: int = 2  # arbitrary; with only one, granules could not be aliased
    realm_donation: int = 2  # granules that an RD needs in RMI 2.0; likewise
