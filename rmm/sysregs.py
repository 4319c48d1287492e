"""System registers that trap to the RMM: the ID registers as seen by a realm.

A realm sees the machine's features except those that the RMM does not virtualise.  All other
trapped registers read as zero and ignore writes.
"""

from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.esr import ESR_SYSREG, SYSREG_MASK, is_id_register, sysreg_key
from rmm.protocols import Machine
from rmm.realm import Realm


def _field(low: int, width: int = 4) -> int:
    return ((1 << width) - 1) << low


_PFR0: Final = sysreg_key(3, 0, 0, 4, 0)
_PFR1: Final = sysreg_key(3, 0, 0, 4, 1)
_ZFR0: Final = sysreg_key(3, 0, 0, 4, 4)
_SMFR0: Final = sysreg_key(3, 0, 0, 4, 5)
_DFR0: Final = sysreg_key(3, 0, 0, 5, 0)
_DFR1: Final = sysreg_key(3, 0, 0, 5, 1)

#: Fields that a realm reads as zero.
HIDDEN: Final = {
    _PFR0: _field(32) | _field(40) | _field(44) | _field(52),  # SVE, MPAM, AMU, RME
    _PFR1: _field(8) | _field(16) | _field(24) | _field(40),  # MTE, MPAM_frac, SME, MTE_frac
    _ZFR0: MASK64,
    _SMFR0: MASK64,
    _DFR0: (
        _field(4)  # TraceVer
        | _field(8)  # PMUVer, see _of_realm
        | _field(12)  # BRPs, see _of_realm
        | _field(16)  # PMSS
        | _field(20)  # WRPs, see _of_realm
        | _field(24)  # SEBEP
        | _field(28)  # CTX_CMPs
        | _field(32)  # PMSVer
        | _field(40)  # TraceFilt
        | _field(44)  # TraceBuffer
        | _field(48)  # MTPMU
        | _field(52)  # BRBE
        | _field(56)  # ExtTrcBuff
        | _field(60)  # HPMN0
    ),
    _DFR1: MASK64,
}
_DOUBLE_LOCK_ABSENT: Final = 0xF << 36

#: The host emulates accesses to these registers: its vGIC generates the interrupt.
HOST_HANDLED: Final = frozenset(
    {
        sysreg_key(3, 0, 12, 11, 1),  # ICC_DIR_EL1
        sysreg_key(3, 0, 12, 11, 5),  # ICC_SGI1R_EL1
        sysreg_key(3, 0, 12, 11, 6),  # ICC_ASGI1R_EL1
        sysreg_key(3, 0, 12, 11, 7),  # ICC_SGI0R_EL1
    }
)


def read(machine: Machine, realm: Realm, esr: int) -> int:
    """Return the value that a realm reads from the trapped register in ``esr``."""
    key = esr & SYSREG_MASK
    if not is_id_register(key):
        return 0
    iss = ESR_SYSREG(esr)
    value = machine.id_register(iss.OP0, iss.OP1, iss.CRN, iss.CRM, iss.OP2)
    shown = value & ~HIDDEN.get(key, 0)
    return shown | _of_realm(realm, value) if key == _DFR0 else shown


def _of_realm(realm: Realm, dfr0: int) -> int:
    """Return the fields of ID_AA64DFR0_EL1 that the realm's parameters determine."""
    pmu = dfr0 & _field(8) if realm.num_counters else 0
    return realm.num_bps << 12 | realm.num_wps << 20 | _DOUBLE_LOCK_ABSENT | pmu
