"""What the RMM keeps: granules, realms, RECs and translation tables.

The caller holds the RMM's lock, so that no command runs meanwhile.
"""

import re
from collections.abc import Iterator
from typing import Final

from pyvmm.arch.bits import MASK64
from pyvmm.arch.pas import GRANULE_SHIFT
from pyvmm.arch.pictures import EntryRun, RecordPicture, RttPicture, TablePicture, Use
from pyvmm.arch.rmi import HashAlgorithm, Ripas, rec_mpidr
from pyvmm.arch.stage2 import (
    ADDRESS_MASK,
    ASSIGNED,
    NS,
    TABLE_ENTRIES,
    VALID,
    is_table,
    level_size,
)
from rmm.granule import GranuleState
from rmm.realm import Realm
from rmm.rec import Rec
from rmm.rmm import Rmm
from rmm.rtt import Rtt, ripas_of

_RUN: Final = re.compile(rb"(.)\1*", re.DOTALL)


def uses(rmm: Rmm) -> Iterator[Use]:
    """Yield the granules in runs of equal state."""
    table = rmm.granules
    for match in _RUN.finditer(bytes(table.states)):
        first, count = match.start(), match.end() - match.start()
        name = GranuleState(match[1][0]).name
        yield Use(hex(table.base + (first << GRANULE_SHIFT)), count << GRANULE_SHIFT, name)


def rtt(realm: Realm) -> RttPicture:
    """Return the tables of a realm."""
    return RttPicture(hex(realm.rd), [table for table, _ in _tables(realm)])


def _tables(realm: Realm) -> Iterator[tuple[TablePicture, Rtt]]:
    tree = realm.rtt
    size = TABLE_ENTRIES * level_size(tree.start_level)
    for index, table in enumerate(tree.start):
        yield from _subtree(realm, table, tree.start_level, index * size)


def _subtree(realm: Realm, table: Rtt, level: int, base: int) -> Iterator[tuple[TablePicture, Rtt]]:
    entries = table.entries.tolist()
    runs = list(_runs(realm, entries, level, base))
    picture = TablePicture(
        pa=hex(table.pa), level=level, ipa=hex(base), live=table.live, entries=runs
    )
    yield picture, table
    for index, entry in enumerate(entries):
        if is_table(entry, level):
            child = realm.rtt.tables[entry & ADDRESS_MASK]
            yield from _subtree(realm, child, level + 1, base + index * level_size(level))


def _runs(realm: Realm, entries: list[int], level: int, base: int) -> Iterator[EntryRun]:
    size, start = level_size(level), 0
    for index in range(1, len(entries) + 1):
        if index < len(entries) and _continues(entries, start, index, level):
            continue
        first = entries[start]
        ipa = base + start * size
        has_ripas = realm.rtt.is_protected(ipa) and not is_table(first, level)
        yield EntryRun(
            ipa=hex(ipa),
            index=start,
            count=index - start,
            size=(index - start) * size,
            state=_state(first, level),
            ripas=Ripas(ripas_of(first)).name if has_ripas else "",
            pa=hex(first & ADDRESS_MASK) if _has_address(first) else "",
            descriptor=f"{first:#018x}",
        )
        start = index


def _continues(entries: list[int], start: int, index: int, level: int) -> bool:
    """Check whether an entry is like the first of a run, with the next address if it has one."""
    first = entries[start]
    if is_table(first, level):
        return False
    step = level_size(level) if _has_address(first) else 0
    return entries[index] == first + (index - start) * step


def _has_address(entry: int) -> bool:
    return bool(entry & (VALID | ASSIGNED))


def _state(entry: int, level: int) -> str:
    if is_table(entry, level):
        return "TABLE"
    name = "ASSIGNED" if _has_address(entry) else "UNASSIGNED"
    return f"{name}_NS" if entry & NS else name


def realm_record(realm: Realm) -> RecordPicture:
    """Return the fields of an RD.  Spec: DEN0137 1.0, "Realm attributes"."""
    measurements = realm.measurements
    fields = {
        "state": realm.state.name,
        "revision": f"{realm.revision >> 16}.{realm.revision & 0xFFFF}",
        "vmid": hex(realm.vmid),
        "ipa_width": str(realm.rtt.ipa_bits),
        "rtt_level_start": str(realm.rtt.start_level),
        "rtt_base": hex(realm.rtt.start[0].pa),
        "rtt_num_start": str(len(realm.rtt.start)),
        "hash_algo": HashAlgorithm(realm.hash_algo).name,
        "measurements[0] (RIM)": measurements.values[0].hex(),
        **{f"measurements[{n}] (REM)": each.hex() for n, each in _rems(realm)},
        "rpv": realm.rpv.hex(),
        "num_bps": str(realm.num_bps + 1),
        "num_wps": str(realm.num_wps + 1),
        "rec_index": str(realm.num_recs),
        "num_recs": str(realm.num_live_recs),
        "instance_id": realm.instance_id.hex(),
        "metadata": hex(realm.metadata_pa) if realm.metadata_pa else "none",
        "is_debuggable": str(realm.is_debuggable),
    }
    return RecordPicture(hex(realm.rd), fields)


def _rems(realm: Realm) -> list[tuple[int, bytes]]:
    return list(enumerate(realm.measurements.values))[1:]


def rec_record(rec: Rec) -> RecordPicture:
    """Return the fields of a REC that does not run.  Spec: DEN0137 1.0, "REC attributes"."""
    pending = {
        "psci": rec.psci,
        "ripas_change": rec.ripas_change,
        "host_call": rec.host_call_ipa,
        "emulatable_abort": rec.abort,
        "attestation": rec.token_request,
    }
    names = ", ".join(name for name, each in pending.items() if each is not None)
    change = rec.ripas_change
    fields = {
        "owner": hex(rec.realm.rd),
        "mpidr": hex(rec_mpidr(rec.index)),
        "flags.runnable": str(rec.runnable),
        "aux": " ".join(map(hex, rec.aux)),
        "pc": hex(rec.context.pc & MASK64),
        "pending": names or "nothing",
        "ripas_addr": hex(change.base) if change else "0x0",
        "ripas_top": hex(change.top) if change else "0x0",
    }
    return RecordPicture(hex(rec.pa), fields)


class Owners:
    """Finds who owns a granule, and what maps it."""

    def __init__(self, rmm: Rmm) -> None:
        self._rmm = rmm

    def describe(self, pa: int) -> tuple[str, list[str]]:
        """Return the owner of the granule at ``pa`` in words, and the IPAs that map it."""
        if pa in self._rmm.realms:
            return f"realm {pa:#x}: its RD", []
        for rec in self._rmm.recs.values():
            if pa == rec.pa or pa in rec.aux:
                what = "granule" if pa == rec.pa else "auxiliary granule"
                return f"realm {rec.realm.rd:#x}: {what} of REC {rec.index}", []
        for realm in self._rmm.realms.values():
            if pa == realm.metadata_pa:
                return f"realm {realm.rd:#x}: its metadata", []
            found = self._in_tables(realm, pa)
            if found is not None:
                return found
        return "", []

    def _in_tables(self, realm: Realm, pa: int) -> tuple[str, list[str]] | None:
        name, ipas = f"realm {realm.rd:#x}", list[str]()
        for picture, table in _tables(realm):
            if pa == table.pa:
                return f"{name}: RTT of level {picture.level} for IPA {picture.ipa}", []
            ipas += (hex(ipa) for run in picture.entries if (ipa := _ipa_of(run, pa)) is not None)
        return (f"{name}: its memory", ipas) if ipas else None


def _ipa_of(run: EntryRun, pa: int) -> int | None:
    """Return the IPA that a run maps to ``pa``; None if it does not."""
    if not run.pa or run.state == "TABLE":
        return None
    offset = pa - int(run.pa, 16)
    return int(run.ipa, 16) + offset if 0 <= offset < run.size else None


def expected_gpis(rmm: Rmm, ns: int, realm: int, other: int) -> bytes:
    """Return the GPI that each granule should have, one byte each."""
    to_gpi = bytearray([realm]) * 256
    to_gpi[GranuleState.UNDELEGATED], to_gpi[GranuleState.NOT_DRAM] = ns, other
    return bytes(rmm.granules.states).translate(bytes(to_gpi))


def granule_state(rmm: Rmm, pa: int) -> str:
    """Return the name of a granule's state."""
    return rmm.granules.state(pa).name
