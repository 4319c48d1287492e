"""RMI_RTT_DATA_* and RMI_RTT_UNPROT_*: ranges of a realm's memory, and of shared memory.

A range command works on the table where the walk for its base ends, and stops with it; or where
something is in the way, unless that is at the base: then it fails and has done nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE
from pyvmm.arch.rmi import (
    HOST_DESCRIPTOR_MEMATTR,
    HOST_DESCRIPTOR_OA,
    MEMATTR_RESERVED,
    DataFlags,
    RmiStatus,
)
from pyvmm.arch.rmi2 import MapFlags, MemoryState, Rmi2Fid
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    LIVE,
    MIN_BLOCK_LEVEL,
    NS,
    NS_ATTRIBUTES,
    PAGE_LEVEL,
    RIPAS_SHIFT,
    S2_DESCRIPTOR,
    TABLE_ENTRIES,
    UNASSIGNED_NS,
    block_or_page,
    is_table,
    level_size,
)
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DELEGATED, UNDELEGATED
from rmm.operation import require_delegated
from rmm.realm import Realm, RealmState
from rmm.rmi.data import assign, entry_after, fill_page, fill_pages, unassigned_page
from rmm.rmi2.addresses import Destination, Range, sources
from rmm.rmi2.granule import check_tracked
from rmm.rmm import Rmm
from rmm.rtt import Rtt, RttTree, Walk, assigned_entry, in_a_row

_MEASURE_CONTENT: Final = int(DataFlags.MEASURE_CONTENT)
_WHERE: Final = MapFlags.ADDRESS_TYPE.mask | MapFlags.LIST_COUNT.mask
_SHARED: Final = _WHERE | MapFlags.MEMATTR.mask | MapFlags.WRITE.mask | MapFlags.READ.mask
_MEMATTR_SHIFT: Final = MapFlags.MEMATTR.low - S2_DESCRIPTOR.MEMATTR.low
_READABLE: Final = 1 << S2_DESCRIPTOR.S2AP.low
_WRITABLE: Final = 2 << S2_DESCRIPTOR.S2AP.low
_CAN_MAP: Final = (RealmState.NEW, RealmState.ACTIVE)


# --- a page with content ----------------------------------------------------------------------


@rmi_command(Rmi2Fid.RMI_RTT_DATA_MAP_INIT)
def rtt_data_map_init(rmm: Rmm, rd: int, data: int, ipa: int, src: int, flags: int) -> None:
    """Add a page with the host's content to a new realm, and measure it.

    Spec: DEN0137 2.0, RMI_RTT_DATA_MAP_INIT.
    Raises: RmiError(ERROR_INPUT) if flags are unknown, ``data`` is the RD, ``src`` is not the
    host's, or the realm does not exist; then (ERROR_REALM) if it is not NEW; then (ERROR_INPUT) if
    ``ipa`` is not a protected page; then (ERROR_RTT, level) if its entry is not VOID; then
    (ERROR_TRACKING) if ``data`` is not DRAM, (ERROR_INPUT) if it is not DELEGATED.
    """
    realm, walk = _check_init(rmm, rd, data, ipa, src, flags)
    fill_page(rmm, realm, walk, data, ipa, src, flags)


def _check_init(rmm: Rmm, rd: int, data: int, ipa: int, src: int, flags: int) -> tuple[Realm, Walk]:
    if flags & ~_MEASURE_CONTENT or data == rd:
        raise RmiError(RmiStatus.ERROR_INPUT)
    rmm.granules.require(src, UNDELEGATED)
    realm = rmm.realm(rd)
    if realm.state is not RealmState.NEW:
        raise RmiError(RmiStatus.ERROR_REALM)
    walk = unassigned_page(realm, ipa)
    _require_delegated(rmm, data)
    return realm, walk


def _require_delegated(rmm: Rmm, pa: int) -> None:
    check_tracked(rmm, pa)
    require_delegated(rmm, pa)


@rtt_data_map_init.series(0, GRANULE_SIZE, GRANULE_SIZE, GRANULE_SIZE, 0)
def _init_several(rmm: Rmm, count: int, rd: int, data: int, ipa: int, src: int, flags: int) -> int:
    realm, walk = _check_init(rmm, rd, data, ipa, src, flags)
    return fill_pages(rmm, realm, walk, count, data, ipa, src, flags)


# --- ranges -----------------------------------------------------------------------------------


class Place(NamedTuple):
    """A walk whose parts have names."""

    table: Rtt
    entry_index: int  # in the table
    level: int  # of the table

    @property
    def entry(self) -> int:
        """The entry's current value."""
        return self.table.entries[self.entry_index]


class Leaf(NamedTuple):
    """The part of a range that is in one table, the last one of the walk for its base."""

    tree: RttTree
    walk: Place
    base: int  # the IPA of the first entry, or after it if the range begins inside an entry
    top: int

    @property
    def size(self) -> int:
        """Size of an entry."""
        return level_size(self.walk.level)

    def at(self, ipa: int) -> Place:
        """Return the place of another entry of the table."""
        first = self.base & -self.size
        table, index, level = self.walk
        return Place(table, index + (ipa - first) // self.size, level)

    def error(self) -> RmiError:
        """Return the failure of a command that finds another entry than it needs."""
        return RmiError(RmiStatus.ERROR_RTT, self.walk.level)


def _check_range(tree: RttTree, base: int, top: int, *, protected: bool) -> None:
    """Check that [base, top) is in one half of the IPA space; otherwise RmiError(ERROR_INPUT)."""
    is_there = tree.is_protected(top - 1) if protected else not tree.is_protected(base)
    if base >= top or (base | top) & GRANULE_OFFSET or not is_there or top - 1 >> tree.ipa_bits:
        raise RmiError(RmiStatus.ERROR_INPUT)


def _find_leaf(tree: RttTree, base: int, top: int) -> Leaf:
    walk = Place(*tree.walk(base, PAGE_LEVEL))
    size = level_size(walk.level)
    end = (base & -size) + (TABLE_ENTRIES - walk.entry_index) * size
    return Leaf(tree, walk, base, min(top, end))


def _realm_to_map(rmm: Rmm, rd: int) -> Realm:
    """Return a realm whose memory may grow."""
    realm = rmm.realm(rd)
    if realm.state not in _CAN_MAP:
        raise RmiError(RmiStatus.ERROR_REALM)
    return realm


def _leaf_to_map(rmm: Rmm, realm: Realm, base: int, top: int, first: Range) -> Leaf:
    """Find the table to map in; its entries are not larger than the first blocks."""
    if not first.num_blocks or first.pa + first.size > 1 << rmm.limits.s2sz:
        raise RmiError(RmiStatus.ERROR_INPUT)
    leaf = _find_leaf(realm.rtt, base, top)
    level = leaf.walk.level
    if level < max(first.level, MIN_BLOCK_LEVEL) or base % leaf.size or top - base < leaf.size:
        raise leaf.error()
    return leaf


def _pieces(leaf: Leaf, ranges: Sequence[Range]) -> Iterator[tuple[int, int, int]]:
    """Yield IPA, PA and number of entries for each range, as far as they fit into the table."""
    ipa = leaf.base
    for each in ranges:
        count = min(each.size, leaf.top - ipa) // leaf.size
        if not count or each.pa % leaf.size or each.state != ranges[0].state:
            return
        yield ipa, each.pa, count
        ipa += count * leaf.size
        if each.size % leaf.size:
            return


@rmi_command(Rmi2Fid.RMI_RTT_DATA_MAP)
def rtt_data_map(rmm: Rmm, rd: int, base: int, top: int, flags: int, oaddr: int) -> tuple[int, ...]:
    """Add zeroed memory to a realm; the RIPAS stays the same, and what is there already, too.

    Output: the IPA where it stopped: ``top``, the end of a table or of the memory given, or an
    entry or granule that does not fit.
    Spec: DEN0137 2.0, RMI_RTT_DATA_MAP.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist; (ERROR_REALM) if it is neither NEW
    nor ACTIVE; (ERROR_INPUT) if the range is not protected, or ``flags`` and ``oaddr`` do not give
    DELEGATED memory; (ERROR_RTT, level) if the entry at ``base`` is not VOID, or larger than the
    range or the blocks given; (ERROR_TRACKING) if the memory is not DRAM.
    """
    realm = _realm_to_map(rmm, rd)
    _check_range(realm.rtt, base, top, protected=True)
    ranges = sources(rmm, flags, oaddr)
    if flags & ~_WHERE or ranges[0].state != MemoryState.DELEGATED:
        raise RmiError(RmiStatus.ERROR_INPUT)
    leaf = _leaf_to_map(rmm, realm, base, top, ranges[0])
    reached = base
    for ipa, pa, count in _pieces(leaf, ranges):
        done = _map_data(rmm, realm, leaf, ipa, pa, count)
        reached = ipa + done * leaf.size
        if done < count:
            break
    if reached == base:
        if _find_data(leaf, base) is None:
            raise leaf.error()
        _require_delegated(rmm, ranges[0].pa)
        raise RmiError(RmiStatus.ERROR_INPUT)  # of its block, another granule
    return (reached,)


def _find_data(leaf: Leaf, ipa: int) -> int | None:
    """Return a VOID entry, or None if it is not one."""
    entry = leaf.at(ipa).entry
    return None if entry & LIVE else entry


def _map_data(rmm: Rmm, realm: Realm, leaf: Leaf, ipa: int, pa: int, count: int) -> int:
    """Map blocks in a row; return how many could be mapped, or were already."""
    done, size = 0, leaf.size
    per_entry = size // GRANULE_SIZE
    while done < count:
        at, here, first = leaf.at(ipa + done * size), ipa + done * size, pa + done * size
        entry, left = at.entry, count - done
        ripas = entry >> RIPAS_SHIFT & 0b11
        if not entry & LIVE:
            left = at.table.count_like(at.entry_index, in_a_row(entry, left, 0))
            left = rmm.granules.count(first, DELEGATED, left * per_entry) // per_entry
            if left:
                assign(rmm, realm, at, here, assigned_entry(first, ripas, at.level), left)
        elif is_table(entry, at.level) or entry & ADDRESS_MASK != first:
            left = 0
        else:
            left = at.table.count_like(at.entry_index, in_a_row(entry, left, size))
        if not left:
            break
        done += left
    return done


@rmi_command(Rmi2Fid.RMI_RTT_UNPROT_MAP)
def rtt_unprot_map(
    rmm: Rmm, rd: int, base: int, top: int, flags: int, oaddr: int
) -> tuple[int, ...]:
    """Share the host's memory with a realm, in the upper half of the IPA space.

    Output: the IPA where it stopped: ``top``, the end of a table or of the memory given, or an
    entry that is in use.
    Spec: DEN0137 2.0, RMI_RTT_UNPROT_MAP.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist; (ERROR_REALM) if it is neither NEW
    nor ACTIVE; (ERROR_INPUT) if the range is not unprotected, ``flags`` and ``oaddr`` do not give
    memory, or MemAttr or S2AP is reserved; (ERROR_RTT, level) if the entry at ``base`` is not
    UNMAPPED_NS, or larger than the range or the blocks given.
    """
    realm = _realm_to_map(rmm, rd)
    _check_range(realm.rtt, base, top, protected=False)
    ranges = sources(rmm, flags, oaddr)
    attributes = flags >> _MEMATTR_SHIFT & HOST_DESCRIPTOR_MEMATTR
    if flags & ~_SHARED or attributes == MEMATTR_RESERVED:
        raise RmiError(RmiStatus.ERROR_INPUT)
    attributes |= _READABLE if flags & MapFlags.READ.mask else 0
    attributes |= _WRITABLE if flags & MapFlags.WRITE.mask else 0
    leaf = _leaf_to_map(rmm, realm, base, top, ranges[0])
    attributes |= NS_ATTRIBUTES | block_or_page(leaf.walk.level)
    reached = base
    for ipa, pa, count in _pieces(leaf, ranges):
        at = leaf.at(ipa)
        done = at.table.count_like(at.entry_index, in_a_row(UNASSIGNED_NS, count, 0))
        if pa + count * leaf.size > 1 << rmm.limits.s2sz:
            done = 0
        if done:
            realm.rtt.set_entries(at, ipa, in_a_row(pa | attributes, done, leaf.size))
        reached = ipa + done * leaf.size
        if done < count:
            break
    if reached == base:
        raise leaf.error()
    return (reached,)


# --- unmapping --------------------------------------------------------------------------------


@rmi_command(Rmi2Fid.RMI_RTT_DATA_UNMAP)
def rtt_data_unmap(
    rmm: Rmm, rd: int, base: int, top: int, flags: int, oaddr: int
) -> tuple[int, ...]:
    """Remove memory from a realm, which becomes DELEGATED; skip VOID entries.

    Outputs: the IPA where it stopped: ``top``, the end of a table, a TABLE entry, or where there
    is no place for more addresses; then the addresses, or their number in the list.
    Spec: DEN0137 2.0, RMI_RTT_DATA_UNMAP.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist, the range is not protected, or
    ``flags`` and ``oaddr`` are not valid; (ERROR_RTT, level) if the entry at ``base`` is DATA and
    not wholly in the range.
    """
    realm = rmm.realm(rd)
    _check_range(realm.rtt, base, top, protected=True)
    return _unmap(rmm, realm, base, top, flags, oaddr)


@rmi_command(Rmi2Fid.RMI_RTT_UNPROT_UNMAP)
def rtt_unprot_unmap(
    rmm: Rmm, rd: int, base: int, top: int, flags: int, oaddr: int
) -> tuple[int, ...]:
    """Unmap shared memory; skip UNMAPPED_NS entries.

    Outputs: the IPA where it stopped: ``top``, the end of a table, a TABLE entry, or where there
    is no place for more addresses; then the addresses, or their number in the list.
    Spec: DEN0137 2.0, RMI_RTT_UNPROT_UNMAP.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist, the range is not unprotected, or
    ``flags`` and ``oaddr`` are not valid; (ERROR_RTT, level) if the entry at ``base`` is MAPPED_NS
    and not wholly in the range.
    """
    realm = rmm.realm(rd)
    _check_range(realm.rtt, base, top, protected=False)
    return _unmap(rmm, realm, base, top, flags, oaddr)


def _unmap(rmm: Rmm, realm: Realm, base: int, top: int, flags: int, oaddr: int) -> tuple[int, ...]:
    if flags & ~_WHERE:
        raise RmiError(RmiStatus.ERROR_INPUT)
    destination = Destination(rmm, flags, oaddr)
    leaf = _find_leaf(realm.rtt, base, top)
    ipa = base
    while ipa < leaf.top:
        at = leaf.at(ipa)
        entry = at.entry
        if not entry & LIVE:
            ipa = min(leaf.top, realm.rtt.next_live(at, ipa))
            continue
        count = (leaf.top - ipa) // leaf.size
        if is_table(entry, at.level) or ipa % leaf.size or not count:
            break
        found = at.table.count_like(at.entry_index, in_a_row(entry, count, leaf.size))
        pa, state = entry & ADDRESS_MASK, MemoryState.DELEGATED
        if entry & NS:
            pa, state = entry & HOST_DESCRIPTOR_OA, MemoryState.UNDELEGATED
        taken = destination.add(pa, at.level, found, state)
        if taken:
            _remove(rmm, realm, at, ipa, taken)
        ipa += taken * leaf.size
        if taken < found:
            break
    if ipa == base:
        raise leaf.error()
    return (ipa, *destination.finish())


def _remove(rmm: Rmm, realm: Realm, at: Place, ipa: int, count: int) -> None:
    """Unmap entries in a row."""
    entry = at.entry
    after = UNASSIGNED_NS if entry & NS else entry_after(entry)
    realm.rtt.set_entries(at, ipa, in_a_row(after, count, 0))
    if not entry & NS:
        size = count * level_size(at.level)
        rmm.release_row(entry & ADDRESS_MASK, size // GRANULE_SIZE)
