"""Build a table that points to itself."""

from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.stage2 import level_size
from pyvmm.lab import Break, Host, Realm, attack, code


@attack(
    stopped_by="RMI_RTT_CREATE: the granule is not DELEGATED",
    spec="DEN0137 1.0, RMI_RTT_CREATE; RmmGranuleState",
    breaks=(Break.GRANULE_STATE,),
)
def loop_tables(host: Host) -> bool:
    """Use a table of a realm as the table below itself.

    Its entries would be pages for the realm: the realm could write its own translations.
    """
    realm = Realm.victim(host)
    table = realm.tables[1]
    beside = code.CODE + level_size(2)
    call = host.attempt(
        f"use the level 2 table {table:#x} as a level 3 table",
        lambda: host.rmi(RmiFid.RMI_RTT_CREATE, realm.rd, table, beside, 3),
    )
    return call is not None
