"""RMI_RTT_* of RMI 2.0 that differ from 1.0."""

from pyvmm.arch.rmi import HOST_DESCRIPTOR_MASK, RmiFid, RmiStatus
from pyvmm.arch.rmi2 import RttEntryState2
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    LIVE,
    NS,
    PAGE_LEVEL,
    TABLE_ENTRIES,
    UNASSIGNED_EMPTY,
    UNASSIGNED_RAM,
    VALID,
    is_table,
    level_size,
)
from rmm.commands import rmi_command
from rmm.errors import RmiError
from rmm.realm import RealmState
from rmm.rmi.rtt import check_protected_range, find_entry
from rmm.rmm import Rmm
from rmm.rtt import ram_entry, ripas_of


@rmi_command(RmiFid.RMI_RTT_INIT_RIPAS)
def rtt_init_ripas(rmm: Rmm, rd: int, base: int, top: int) -> tuple[int, ...]:
    """Set the RIPAS of a new realm's IPAs to RAM, entry by entry; it is not measured.

    Output: the IPA where it stopped: ``top``, the end of a table, or an entry that is DESTROYED, a
    TABLE, or reaches beyond ``top``.
    Spec: DEN0137 2.0, RMI_RTT_INIT_RIPAS.
    Raises: RmiError(ERROR_INPUT) if the range is empty, unaligned or not protected, or the realm
    does not exist; (ERROR_REALM) if it is not NEW; (ERROR_RTT, level reached) without progress.
    """
    realm = rmm.realm(rd)
    check_protected_range(realm.rtt, base, top)
    if realm.state is not RealmState.NEW:
        raise RmiError(RmiStatus.ERROR_REALM)
    tree = realm.rtt
    table, index, level = tree.walk(base, PAGE_LEVEL)
    size, ipa = level_size(level), base
    while base % size == 0 and index < TABLE_ENTRIES and ipa + size <= top:
        entry = table.entries[index]
        ram = _as_ram(entry, level)
        if ram is None:
            break
        if ram != entry:
            tree.set_entry((table, index, level), ipa, ram)
        ipa += size
        index += 1
    if ipa == base:
        raise RmiError(RmiStatus.ERROR_RTT, level)
    return (ipa,)


def _as_ram(entry: int, level: int) -> int | None:
    """Return an entry with the same backing and RIPAS RAM; None if it has to stay as it is."""
    if entry in (UNASSIGNED_EMPTY, UNASSIGNED_RAM):
        return UNASSIGNED_RAM
    if is_table(entry, level) or not entry & LIVE:
        return None
    is_empty = not entry & VALID and ripas_of(entry) == 0
    return entry if entry & VALID else ram_entry(entry & ADDRESS_MASK, level) if is_empty else None


@rmi_command(RmiFid.RMI_RTT_READ_ENTRY)
def rtt_read_entry(rmm: Rmm, rd: int, ipa: int, level: int) -> tuple[int, ...]:
    """Read the entry of an IPA at ``level``, or at the last table above it.

    Outputs: level reached, RmiRttEntryState, the host's view of the descriptor, RIPAS.
    Spec: DEN0137 2.0, RMI_RTT_READ_ENTRY.
    Raises: RmiError(ERROR_INPUT) if the realm does not exist or level and ``ipa`` are not valid
    for it.
    """
    entry, reached = find_entry(rmm, rd, ipa, level)
    if not entry & LIVE:
        return reached, RttEntryState2.VOID, 0, ripas_of(entry)
    if is_table(entry, reached):
        return reached, RttEntryState2.TABLE, entry & ADDRESS_MASK, 0
    shown = HOST_DESCRIPTOR_MASK if entry & NS else ADDRESS_MASK
    return reached, RttEntryState2.DATA, entry & shown, ripas_of(entry)
