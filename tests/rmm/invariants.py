"""The invariants of the RMM's state after any command."""

from collections.abc import Callable, Iterable

from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.stage2 import ADDRESS_MASK, LIVE, NS, PAGE_LEVEL, VALID, is_table, level_size
from rmm.granule import GranuleState
from rmm.operation import Operation
from rmm.rmi.realm import start_tables
from rmm.rmi2.realm import RealmCreation
from rmm.rmm import Rmm
from rmm.rtt import Rtt, RttTree


def check_invariants(rmm: Rmm, is_realm: Callable[[int], bool], watched: Iterable[int]) -> None:
    """GPT and states agree, DELEGATED is zero, tables count their live entries, no page twice.

    ``is_realm`` asks the GPT of a granule; asked are those in use and the ``watched`` ones.
    """
    granules = rmm.granules
    states, zeros = granules.states, bytes(GRANULE_SIZE)
    in_use = (granules.base + n * GRANULE_SIZE for n, state in enumerate(states) if state)
    for pa in {*watched, *in_use}:
        state = granules.state(pa)
        assert is_realm(pa) == (state is not GranuleState.UNDELEGATED)
        if state is GranuleState.DELEGATED:
            assert rmm.memory.read(pa, GRANULE_SIZE) == zeros
    named: list[int] = []
    for realm in rmm.realms.values():
        for table in (*realm.rtt.start, *realm.rtt.tables.values()):
            live = [entry for entry in table.entries if entry & LIVE]
            assert table.live == len(live)
            assert table.shared == sum(entry & NS != 0 for entry in live)
            assert rmm.granules.state(table.pa) is GranuleState.RTT
        for start in realm.rtt.start:
            named += pages_of(realm.rtt, start, realm.rtt.start_level)
    assert len(named) == len(set(named))
    data = [pa for pa in named if rmm.granules.state(pa) is GranuleState.DATA]
    assert len(data) == len(named) == states.count(GranuleState.DATA)
    assert states.count(GranuleState.RD) == len(rmm.realms)
    assert states.count(GranuleState.REC) == len(rmm.recs)
    lent_to = [rec.aux for rec in rmm.recs.values()]
    lent_to += [tuple(realm.donated) for realm in rmm.realms.values()]
    lent_to += [held_by(operation) for operation in rmm.operations.values()]
    held = [pa for each in lent_to for pa in each]
    assert len(held) == len(set(held)) == states.count(GranuleState.REC_AUX)
    assert all(granules.state(pa) is GranuleState.REC_AUX for pa in held)
    lent = [realm.metadata_pa for realm in rmm.realms.values() if realm.metadata]
    assert states.count(GranuleState.METADATA) == len(lent)
    assert sum(realm.num_live_recs for realm in rmm.realms.values()) == len(rmm.recs)
    vmids = [realm.vmid for realm in rmm.realms.values()]
    assert len(vmids) == len(set(vmids))


def held_by(operation: Operation) -> tuple[int, ...]:
    """Return all granules that an operation holds."""
    reserved: tuple[int, ...] = ()
    if isinstance(operation, RealmCreation):
        reserved = tuple(start_tables(operation.params))
    return (operation.owner, *reserved, *operation.donated)


def pages_of(tree: RttTree, table: Rtt, level: int) -> list[int]:
    """Return the granules in protected entries."""
    pas: list[int] = []
    for entry in table.entries:
        if is_table(entry, level):
            pas += pages_of(tree, tree.tables[entry & ADDRESS_MASK], level + 1)
        elif entry & LIVE and not entry & NS:
            first = entry & ADDRESS_MASK
            pas += range(first, first + level_size(level), level_size(PAGE_LEVEL))
            assert not entry & VALID or entry & 0b11 == (0b11 if level == PAGE_LEVEL else 0b01)
    return pas
