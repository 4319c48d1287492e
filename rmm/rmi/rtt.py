"""RMI_RTT_*: the translation tables of a realm, their entries, and their RIPAS.

Commands take levels as signed numbers in a register; a level is checked against the realm's levels
before anything is derived from it.
"""

from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE
from pyvmm.arch.rmi import (
    HOST_DESCRIPTOR_MASK,
    HOST_DESCRIPTOR_MEMATTR,
    HOST_DESCRIPTOR_OA,
    MEMATTR_RESERVED,
    Ripas,
    RmiFid,
    RmiStatus,
    RttEntryState,
)
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    ASSIGNED,
    LIVE,
    MIN_BLOCK_LEVEL,
    NS,
    NS_ATTRIBUTES,
    PAGE_LEVEL,
    TABLE_ENTRIES,
    TABLE_TYPE,
    UNASSIGNED_DESTROYED,
    UNASSIGNED_EMPTY,
    UNASSIGNED_NS,
    UNASSIGNED_RAM,
    VALID,
    block_or_page,
    is_table,
    level_size,
)
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, RTT
from rmm.realm import Realm, RealmState
from rmm.rec import RipasChange
from rmm.rmm import Rmm
from rmm.rtt import (
    Rtt,
    RttTree,
    Walk,
    assigned_entry,
    folded,
    in_a_row,
    ripas_of,
    unassigned_entry,
)


def _check_table_ipa(rtt: RttTree, ipa: int, level: int) -> None:
    """Check that a table at ``level`` could begin at ``ipa``; otherwise RmiError(ERROR_INPUT)."""
    if (
        not rtt.start_level < level <= PAGE_LEVEL
        or ipa % level_size(level - 1)
        or ipa >> rtt.ipa_bits
    ):
        raise RmiError(RmiStatus.ERROR_INPUT)


def _check_unprotected_ipa(rtt: RttTree, ipa: int, level: int) -> None:
    """Check that ``ipa`` could be an unprotected block or page at ``level``.

    Raises: RmiError(ERROR_INPUT) otherwise.
    """
    if (
        not max(rtt.start_level, MIN_BLOCK_LEVEL) <= level <= PAGE_LEVEL
        or ipa % level_size(level)
        or ipa >> rtt.ipa_bits
        or rtt.is_protected(ipa)
    ):
        raise RmiError(RmiStatus.ERROR_INPUT)


def _find_table(rtt: RttTree, parent: Walk) -> Rtt | None:
    """Return the table at the end of a walk to the level above it, or None."""
    table, index, reached = parent
    entry = table.entries[index]
    return rtt.tables[entry & ADDRESS_MASK] if is_table(entry, reached) else None


@rmi_command(RmiFid.RMI_RTT_CREATE)
def rtt_create(rmm: Rmm, rd: int, rtt: int, ipa: int, level: int) -> None:
    """Replace an entry by a table with equivalent entries.

    Spec: DEN0137 1.0, RMI_RTT_CREATE.
    Raises: RmiError(ERROR_INPUT) if ``rtt`` is not DELEGATED, the realm does not exist, or level
    and ``ipa`` are not valid for it; (ERROR_RTT, level reached) if the table above is missing;
    (ERROR_RTT, level - 1) if the table already exists.
    """
    rmm.granules.require(rtt, DELEGATED)
    tree = rmm.realm(rd).rtt
    _check_table_ipa(tree, ipa, level)
    parent = tree.walk(ipa, level - 1)
    table, index, reached = parent
    entry = table.entries[index]
    if reached != level - 1 or is_table(entry, reached):
        raise RmiError(RmiStatus.ERROR_RTT, reached)
    created = Rtt(rtt, rmm.memory)
    if entry:  # a DELEGATED granule is already a table of UNASSIGNED/EMPTY
        created.fill(entry, level)
    rmm.granules.move(rtt, RTT)
    tree.tables[rtt] = created
    tree.set_entry(parent, ipa, rtt | TABLE_TYPE)


@rmi_command(RmiFid.RMI_RTT_DESTROY)
def rtt_destroy(rmm: Rmm, rd: int, ipa: int, level: int) -> tuple[int, ...]:
    """Remove a table that is not live; the RIPAS of its IPAs becomes DESTROYED.

    This unmaps shared memory that the table maps.
    Outputs: the table's PA and the next live IPA after it.
    Spec: DEN0137 1.0, RMI_RTT_DESTROY.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist or level and ``ipa`` are not valid
    for it; (ERROR_RTT, level reached) if the table does not exist, with the next live IPA;
    (ERROR_RTT, level) if it maps a page of the realm or a table, with ``ipa``.
    """
    tree = rmm.realm(rd).rtt
    _check_table_ipa(tree, ipa, level)
    parent = _, _, reached = tree.walk(ipa, level - 1)
    table = _find_table(tree, parent)
    if table is None:
        raise RmiError(RmiStatus.ERROR_RTT, reached, 0, tree.next_live(parent, ipa))
    if table.is_live:
        raise RmiError(RmiStatus.ERROR_RTT, level, 0, ipa)
    entry = UNASSIGNED_DESTROYED if tree.is_protected(ipa) else UNASSIGNED_NS
    _replace_table(rmm, tree, parent, table, ipa, entry)
    return table.pa, tree.next_live(parent, ipa)


@rmi_command(RmiFid.RMI_RTT_FOLD)
def rtt_fold(rmm: Rmm, rd: int, ipa: int, level: int) -> tuple[int, ...]:
    """Replace a table whose entries are all alike by one equivalent entry.

    Output: the table's PA.
    Spec: DEN0137 1.0, RMI_RTT_FOLD.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist or level and ``ipa`` are not valid
    for it; (ERROR_RTT, level reached) if the table does not exist; (ERROR_RTT, level - 1) if
    that level cannot have blocks; (ERROR_RTT, level) if the entries differ.
    """
    tree = rmm.realm(rd).rtt
    _check_table_ipa(tree, ipa, level)
    parent = _, _, reached = tree.walk(ipa, level - 1)
    table = _find_table(tree, parent)
    if table is None:
        raise RmiError(RmiStatus.ERROR_RTT, reached)
    if table.live == TABLE_ENTRIES and level <= MIN_BLOCK_LEVEL:
        raise RmiError(RmiStatus.ERROR_RTT, level - 1)
    entry = folded(table.entries, level) if table.live in (0, TABLE_ENTRIES) else None
    if entry is None:
        raise RmiError(RmiStatus.ERROR_RTT, level)
    _replace_table(rmm, tree, parent, table, ipa, entry)
    return (table.pa,)


def _replace_table(rmm: Rmm, tree: RttTree, parent: Walk, table: Rtt, ipa: int, entry: int) -> None:
    tree.set_entry(parent, ipa, entry)
    del tree.tables[table.pa]
    rmm.release(table.pa)


@rmi_command(RmiFid.RMI_RTT_READ_ENTRY)
def rtt_read_entry(rmm: Rmm, rd: int, ipa: int, level: int) -> tuple[int, ...]:
    """Read the entry of an IPA at ``level``, or at the last table above it.

    Outputs: level reached, RttEntryState, the host's view of the descriptor, RIPAS.
    Spec: DEN0137 1.0, RMI_RTT_READ_ENTRY.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist or level and ``ipa`` are not valid
    for it.
    """
    entry, reached = find_entry(rmm, rd, ipa, level)
    ripas = ripas_of(entry)
    if not entry & LIVE:
        return reached, RttEntryState.UNASSIGNED, 0, ripas
    if is_table(entry, reached):
        return reached, RttEntryState.TABLE, entry & ADDRESS_MASK, 0
    shown = HOST_DESCRIPTOR_MASK if entry & NS else ADDRESS_MASK
    return reached, RttEntryState.ASSIGNED, 0 if ripas == Ripas.DESTROYED else entry & shown, ripas


def find_entry(rmm: Rmm, rd: int, ipa: int, level: int) -> tuple[int, int]:
    """Return an entry at ``level`` or above, and its level.

    Raises: RmiError(ERROR_INPUT) if the realm does not exist or level and ``ipa`` are not valid
    for it.
    """
    tree = rmm.realm(rd).rtt
    if (
        not tree.start_level <= level <= PAGE_LEVEL
        or ipa % level_size(level)
        or ipa >> tree.ipa_bits
    ):
        raise RmiError(RmiStatus.ERROR_INPUT)
    table, index, reached = tree.walk(ipa, level)
    return table.entries[index], reached


@rmi_command(RmiFid.RMI_RTT_MAP_UNPROTECTED)
def rtt_map_unprotected(rmm: Rmm, rd: int, ipa: int, level: int, desc: int) -> None:
    """Share the host's memory with a realm, at an IPA in the upper half.

    Spec: DEN0137 1.0, RMI_RTT_MAP_UNPROTECTED.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist, level and ``ipa`` are not valid for
    it, or ``desc`` has a reserved MemAttr, or more than an aligned address, MemAttr and S2AP;
    (ERROR_RTT, level reached) if there is no UNASSIGNED_NS entry at ``level``.
    """
    tree = rmm.realm(rd).rtt
    _check_unprotected_ipa(tree, ipa, level)
    if (
        desc & ~HOST_DESCRIPTOR_MASK
        or desc & HOST_DESCRIPTOR_MEMATTR == MEMATTR_RESERVED
        or (desc & HOST_DESCRIPTOR_OA) % level_size(level)
    ):
        raise RmiError(RmiStatus.ERROR_INPUT)
    walk = tree.walk(ipa, level)
    table, index, reached = walk
    if reached != level or table.entries[index] != UNASSIGNED_NS:
        raise RmiError(RmiStatus.ERROR_RTT, reached)
    tree.set_entry(walk, ipa, desc | NS_ATTRIBUTES | block_or_page(level))


@rmi_command(RmiFid.RMI_RTT_UNMAP_UNPROTECTED)
def rtt_unmap_unprotected(rmm: Rmm, rd: int, ipa: int, level: int) -> tuple[int, ...]:
    """Unmap shared memory; the output is the next live IPA of the table.

    Spec: DEN0137 1.0, RMI_RTT_UNMAP_UNPROTECTED.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist or level and ``ipa`` are not valid
    for it; (ERROR_RTT, level reached) if there is no ASSIGNED_NS entry, with the next live IPA.
    """
    tree = rmm.realm(rd).rtt
    _check_unprotected_ipa(tree, ipa, level)
    walk = tree.walk(ipa, level)
    table, index, reached = walk
    entry = table.entries[index]
    if reached != level or not entry & VALID or is_table(entry, reached):
        raise RmiError(RmiStatus.ERROR_RTT, reached, tree.next_live(walk, ipa))
    tree.set_entry(walk, ipa, UNASSIGNED_NS)
    return (tree.next_live(walk, ipa),)


@rmi_command(RmiFid.RMI_RTT_INIT_RIPAS)
def rtt_init_ripas(rmm: Rmm, rd: int, base: int, top: int) -> tuple[int, ...]:
    """Set the RIPAS of a new realm's IPAs to RAM, entry by entry, and measure each.

    Output: the IPA where it stopped: ``top``, the end of a table, or an entry that is not
    UNASSIGNED or reaches beyond ``top``.
    Spec: DEN0137 1.0, RMI_RTT_INIT_RIPAS.
    Raises: RmiError(ERROR_INPUT) if the range is empty, unaligned or not protected, or the realm
    does not exist; (ERROR_REALM) if it is not NEW; (ERROR_RTT, level reached) without progress.
    """
    realm = rmm.realm(rd)
    check_protected_range(realm.rtt, base, top)
    if realm.state is not RealmState.NEW:
        raise RmiError(RmiStatus.ERROR_REALM)
    tree, measurements = realm.rtt, realm.measurements
    table, index, level = tree.walk(base, PAGE_LEVEL)
    size = level_size(level)
    ipa = base
    if base % size == 0:
        while index < TABLE_ENTRIES and ipa + size <= top:
            entry = table.entries[index]
            if entry == UNASSIGNED_EMPTY:
                tree.set_entry((table, index, level), ipa, UNASSIGNED_RAM)
            elif entry != UNASSIGNED_RAM:
                break
            measurements.extend_ripas(ipa, ipa + size)
            ipa += size
            index += 1
    if ipa == base:
        raise RmiError(RmiStatus.ERROR_RTT, level)
    return (ipa,)


def check_protected_range(tree: RttTree, base: int, top: int) -> None:
    """Check that [base, top) is a range of protected granules; otherwise RmiError(ERROR_INPUT)."""
    if base >= top or (base | top) & GRANULE_OFFSET or not tree.is_protected(top - GRANULE_SIZE):
        raise RmiError(RmiStatus.ERROR_INPUT)


@rmi_command(RmiFid.RMI_RTT_SET_RIPAS)
def rtt_set_ripas(rmm: Rmm, rd: int, rec: int, base: int, top: int) -> tuple[int, ...]:
    """Perform the next part of the RIPAS change that a REC requested.

    Output: the IPA where it stopped: ``top``, the end of a table, an entry that reaches beyond
    ``top``, or a DESTROYED entry that the realm wants to keep.
    Spec: DEN0137 1.0, RMI_RTT_SET_RIPAS.
    Raises: RmiError(ERROR_INPUT) if the realm or REC does not exist; (ERROR_REC) if the REC runs
    or belongs to another realm; (ERROR_INPUT) if the range is not the next part of the request;
    (ERROR_RTT, level reached) without progress.
    """
    if base >= top:
        raise RmiError(RmiStatus.ERROR_INPUT)
    realm, asking = rmm.realm(rd), rmm.rec(rec)
    if asking.running or asking.realm is not realm:
        raise RmiError(RmiStatus.ERROR_REC)
    change = asking.ripas_change
    if change is None or base != change.base or top > change.top or top & GRANULE_OFFSET:
        raise RmiError(RmiStatus.ERROR_INPUT)
    reached = _set_ripas(realm, change, top)
    change.base = reached
    return (reached,)


def _set_ripas(realm: Realm, change: RipasChange, top: int) -> int:
    """Change entries of one table from ``change.base`` on; return the IPA of the first other."""
    tree, ipa = realm.rtt, change.base
    table, index, level = tree.walk(ipa, PAGE_LEVEL)
    size = level_size(level)
    end = index + (min(top - ipa, (TABLE_ENTRIES - index) * size) // size if ipa % size == 0 else 0)
    while index < end:
        entry = table.entries[index]
        old = ripas_of(entry)
        is_kept = old == Ripas.DESTROYED and not change.change_destroyed
        if is_kept or is_table(entry, level):
            break
        step = size if entry & LIVE else 0
        count = table.count_like(index, in_a_row(entry, end - index, step))
        if old != change.ripas:
            changed = in_a_row(_with_ripas(entry, change.ripas, level), count, step)
            tree.set_entries((table, index, level), ipa, changed)
        ipa += count * size
        index += count
    if ipa == change.base:
        raise RmiError(RmiStatus.ERROR_RTT, level)
    return ipa


def _with_ripas(entry: int, ripas: int, level: int) -> int:
    """Return an entry with the same backing and another RIPAS."""
    if entry & (VALID | ASSIGNED):
        return assigned_entry(entry & ADDRESS_MASK, ripas, level)
    return unassigned_entry(ripas)
