"""Destroys all realms with the host's commands."""

from collections.abc import Callable

from monitor.monitor import Monitor
from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.stage2 import ADDRESS_MASK, LIVE, NS, is_table, level_size
from rmm.rmm import Rmm
from rmm.rtt import Rtt, RttTree

#: Issues a command that must succeed.
Do = Callable[..., tuple[int, ...]]  # type: ignore[explicit-any]


def tear_down(do: Do, rmm: Rmm, monitor: Monitor) -> None:
    """Destroy RECs, tables and realms, and undelegate every granule; nothing may be left."""
    for rec in list(rmm.recs):
        do(RmiFid.RMI_REC_DESTROY, rec)
    for rd, realm in list(rmm.realms.items()):
        tree = realm.rtt
        for n, start in enumerate(tree.start):
            base = n * 512 * level_size(tree.start_level)
            _empty(do, tree, start, tree.start_level, base)
        do(RmiFid.RMI_REALM_DESTROY, rd)
    for pa in monitor.leak_check():
        do(RmiFid.RMI_GRANULE_UNDELEGATE, pa)
    assert monitor.leak_check() == []
    assert not any(rmm.granules.states)


def _empty(do: Do, tree: RttTree, table: Rtt, level: int, base: int) -> None:
    """Destroy the entries of a table."""
    size = level_size(level)
    for index in range(512):
        entry, ipa = table.entries[index], base + index * size
        if is_table(entry, level):
            _empty(do, tree, tree.tables[entry & ADDRESS_MASK], level + 1, ipa)
            do(RmiFid.RMI_RTT_DESTROY, tree.rd, ipa, level + 1)
        elif entry & LIVE and entry & NS:
            do(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, tree.rd, ipa, level)
        elif entry & LIVE:
            do(RmiFid.RMI_DATA_DESTROY, tree.rd, ipa)
