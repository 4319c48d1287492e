"""RMI_DATA_*: the pages of a realm."""

from pyvmm.arch.pas import GRANULE_OFFSET, GRANULE_SIZE, GranuleProtectionFault
from pyvmm.arch.rmi import DataFlags, RmiFid, RmiStatus
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    ASSIGNED,
    LIVE,
    PAGE_LEVEL,
    RIPAS_SHIFT,
    UNASSIGNED_DESTROYED,
    UNASSIGNED_EMPTY,
    VALID,
    level_size,
)
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.granule import DATA, DELEGATED, UNDELEGATED
from rmm.realm import Realm, RealmState
from rmm.rmm import Rmm
from rmm.rtt import Walk, assigned_entry, in_a_row, ram_entry

_MEASURE_CONTENT = int(DataFlags.MEASURE_CONTENT)
_NEW = RealmState.NEW


def page_walk(realm: Realm, ipa: int) -> Walk:
    """Walk to the page level; RmiError(ERROR_INPUT) unless ``ipa`` is a protected page."""
    if ipa & GRANULE_OFFSET or not realm.rtt.is_protected(ipa):
        raise RmiError(RmiStatus.ERROR_INPUT)
    return realm.rtt.walk(ipa, PAGE_LEVEL)


def unassigned_page(realm: Realm, ipa: int) -> Walk:
    """Walk to an UNASSIGNED page entry; RmiError(ERROR_RTT, level reached) if it is not one."""
    walk = page_walk(realm, ipa)
    table, index, level = walk
    if level != PAGE_LEVEL or table.entries[index] & LIVE:
        raise RmiError(RmiStatus.ERROR_RTT, level)
    return walk


@rmi_command(RmiFid.RMI_DATA_CREATE)
def data_create(rmm: Rmm, rd: int, data: int, ipa: int, src: int, flags: int) -> None:
    """Add a page with the host's content to a new realm, and measure it.

    Spec: DEN0137 1.0, RMI_DATA_CREATE.
    Raises: RmiError(ERROR_INPUT) if flags are unknown, ``src`` is not the host's, ``data`` is
    not DELEGATED, or the realm does not exist; then (ERROR_REALM) if it is not NEW; then
    (ERROR_INPUT) if ``ipa`` is not a protected page; then (ERROR_RTT, level) if its entry is not
    UNASSIGNED.
    """
    realm, walk = _check_create(rmm, rd, data, ipa, src, flags)
    fill_page(rmm, realm, walk, data, ipa, src, flags)


def fill_page(
    rmm: Rmm, realm: Realm, walk: Walk, data: int, ipa: int, src: int, flags: int
) -> None:
    """Make a granule, which the caller has checked, a page with the host's content."""
    content = rmm.read_ns(src, GRANULE_SIZE)
    rmm.memory.write(data, content)
    rmm.granules.move(data, DATA)
    realm.rtt.set_entry(walk, ipa, ram_entry(data, PAGE_LEVEL))
    measurements = realm.measurements
    measurements.extend_data(ipa, flags, measurements.hash_of(content) if flags else b"")


def _check_create(
    rmm: Rmm, rd: int, data: int, ipa: int, src: int, flags: int
) -> tuple[Realm, Walk]:
    if flags & ~_MEASURE_CONTENT:
        raise RmiError(RmiStatus.ERROR_INPUT)
    rmm.granules.require(src, UNDELEGATED)
    rmm.granules.require(data, DELEGATED)
    realm = rmm.realm(rd)
    if realm.state is not _NEW:
        raise RmiError(RmiStatus.ERROR_REALM)
    return realm, unassigned_page(realm, ipa)


@data_create.series(0, GRANULE_SIZE, GRANULE_SIZE, GRANULE_SIZE, 0)
def _create_several(
    rmm: Rmm, count: int, rd: int, data: int, ipa: int, src: int, flags: int
) -> int:
    realm, walk = _check_create(rmm, rd, data, ipa, src, flags)
    return fill_pages(rmm, realm, walk, count, data, ipa, src, flags)


def fill_pages(
    rmm: Rmm, realm: Realm, walk: Walk, count: int, data: int, ipa: int, src: int, flags: int
) -> int:
    """Make pages in a row with the host's content, as many as certainly succeed; return how many.

    The caller has checked the first one.
    """
    count = _count_unassigned(walk, min(count, rmm.granules.count(data, DELEGATED, count)))
    size = count * GRANULE_SIZE
    try:
        rmm.memory.write(data, rmm.ns.view(src, size))
    except GranuleProtectionFault:  # one of them is not the host's
        return 0
    assign(rmm, realm, walk, ipa, ram_entry(data, PAGE_LEVEL), count)
    content, measurements = rmm.memory.view(data, size), realm.measurements
    for offset in range(0, size, GRANULE_SIZE):
        page = content[offset : offset + GRANULE_SIZE]
        measurements.extend_data(ipa + offset, flags, measurements.hash_of(page) if flags else b"")
    return count


@rmi_command(RmiFid.RMI_DATA_CREATE_UNKNOWN)
def data_create_unknown(rmm: Rmm, rd: int, data: int, ipa: int) -> None:
    """Add a zeroed page to a realm; the RIPAS stays the same.

    Spec: DEN0137 1.0, RMI_DATA_CREATE_UNKNOWN.
    Raises: RmiError(ERROR_INPUT) if ``data`` is not DELEGATED, the realm does not exist, or
    ``ipa`` is not a protected page; (ERROR_RTT, level) if its entry is not UNASSIGNED.
    """
    rmm.granules.require(data, DELEGATED)
    realm = rmm.realm(rd)
    walk = table, index, _ = unassigned_page(realm, ipa)
    ripas = table.entries[index] >> RIPAS_SHIFT & 0b11
    rmm.granules.move(data, DATA)
    realm.rtt.set_entry(walk, ipa, assigned_entry(data, ripas, PAGE_LEVEL))


@data_create_unknown.series(0, GRANULE_SIZE, GRANULE_SIZE)
def _create_several_unknown(rmm: Rmm, count: int, rd: int, data: int, ipa: int) -> int:
    realm = rmm.realm(rd)
    walk = table, index, _ = unassigned_page(realm, ipa)
    count = _count_unassigned(walk, rmm.granules.count(data, DELEGATED, count))
    if count:
        ripas = table.entries[index] >> RIPAS_SHIFT & 0b11
        assign(rmm, realm, walk, ipa, assigned_entry(data, ripas, PAGE_LEVEL), count)
    return count


def _count_unassigned(walk: Walk, limit: int) -> int:
    """Return how many entries in a row are as the one at the end of a walk, which is UNASSIGNED."""
    table, index, _ = walk
    return table.count_like(index, in_a_row(table.entries[index], limit, 0))


def assign(rmm: Rmm, realm: Realm, walk: Walk, ipa: int, entry: int, count: int) -> None:
    """Assign DELEGATED granules in a row to entries in a row; ``entry`` is that of the first."""
    _, _, level = walk
    size = level_size(level)
    rmm.granules.move_row(entry & ADDRESS_MASK, DATA, count * size // GRANULE_SIZE)
    realm.rtt.set_entries(walk, ipa, in_a_row(entry, count, size))


@rmi_command(RmiFid.RMI_DATA_DESTROY)
def data_destroy(rmm: Rmm, rd: int, ipa: int) -> tuple[int, ...]:
    """Remove a page from a realm; the outputs are its PA and the next live IPA of the table.

    Spec: DEN0137 1.0, RMI_DATA_DESTROY.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist or ``ipa`` is not a protected page;
    (ERROR_RTT, level) if its entry is not ASSIGNED, with the next live IPA as an output.
    """
    realm, walk, entry = _assigned_page(rmm, rd, ipa)
    realm.rtt.set_entry(walk, ipa, entry_after(entry))
    data = entry & ADDRESS_MASK
    rmm.release(data)
    return data, realm.rtt.next_live(walk, ipa)


def _assigned_page(rmm: Rmm, rd: int, ipa: int) -> tuple[Realm, Walk, int]:
    """Walk to an ASSIGNED page entry; return the entry last."""
    realm = rmm.realm(rd)
    walk = table, index, level = page_walk(realm, ipa)
    entry = table.entries[index]
    if level != PAGE_LEVEL or not entry & LIVE:
        raise RmiError(RmiStatus.ERROR_RTT, level, 0, realm.rtt.next_live(walk, ipa))
    return realm, walk, entry


def entry_after(entry: int) -> int:
    """Return what becomes of an ASSIGNED entry when its page is destroyed."""
    was_empty = entry & (VALID | ASSIGNED | 0b11 << RIPAS_SHIFT) == ASSIGNED
    return UNASSIGNED_EMPTY if was_empty else UNASSIGNED_DESTROYED


@data_destroy.series(0, GRANULE_SIZE)
def _destroy_several(rmm: Rmm, count: int, rd: int, ipa: int) -> int:
    realm, walk, entry = _assigned_page(rmm, rd, ipa)
    table, index, _ = walk
    count = table.count_like(index, in_a_row(entry, count, GRANULE_SIZE))
    realm.rtt.set_entries(walk, ipa, in_a_row(entry_after(entry), count, 0))
    rmm.release_row(entry & ADDRESS_MASK, count)
    return count
