"""RSI_IPA_STATE_*: the RIPAS of a realm's IPAs, its own memory or none."""

from pyvmm.arch.pas import GRANULE_OFFSET
from pyvmm.arch.rmi import RecExitReason, Ripas
from pyvmm.arch.rsi import RipasChangeFlags, RsiFid, RsiStatus
from pyvmm.arch.stage2 import PAGE_LEVEL, TABLE_ENTRIES, is_table, level_size
from rmm.commands import rsi_command
from rmm.errors import RsiError
from rmm.rec import HostExit, Rec, RipasChange
from rmm.rmm import Rmm
from rmm.rtt import RttTree, ripas_of


def _check_range(rtt: RttTree, base: int, top: int) -> None:
    if base >= top or (base | top) & GRANULE_OFFSET or not rtt.is_protected(top - 1):
        raise RsiError(RsiStatus.ERROR_INPUT)


@rsi_command(RsiFid.RSI_IPA_STATE_SET)
def ipa_state_set(_rmm: Rmm, rec: Rec, base: int, top: int, ripas: int, flags: int) -> HostExit:
    """Ask the host to change the RIPAS of a range; the host may change only a part.

    Outputs, after the next entry: where the host stopped, and whether it accepted.
    Spec: DEN0137 1.0, RSI_IPA_STATE_SET.
    Raises: RsiError(ERROR_INPUT) if the range is empty, unaligned or not protected, or
    ``ripas`` is neither EMPTY nor RAM.
    """
    _check_range(rec.realm.rtt, base, top)
    if ripas not in (Ripas.EMPTY, Ripas.RAM):
        raise RsiError(RsiStatus.ERROR_INPUT)
    change_destroyed = bool(flags & RipasChangeFlags.CHANGE_DESTROYED)
    rec.ripas_change = RipasChange(base, top, ripas, change_destroyed=change_destroyed)
    rec.reply(RsiStatus.SUCCESS, top)
    leave = HostExit(RecExitReason.RIPAS_CHANGE)
    leave.ripas_change = rec.ripas_change
    return leave


@rsi_command(RsiFid.RSI_IPA_STATE_GET)
def ipa_state_get(_rmm: Rmm, rec: Rec, start: int, end: int) -> tuple[int, ...]:
    """Return the RIPAS at ``start`` and the end of the range that has it, at most ``end``.

    The range may stop at the end of a table.
    Spec: DEN0137 1.0, RSI_IPA_STATE_GET.
    Raises: RsiError(ERROR_INPUT) if the range is empty, unaligned or not protected.
    """
    rtt = rec.realm.rtt
    _check_range(rtt, start, end)
    table, index, level = rtt.walk(start, PAGE_LEVEL)
    size = level_size(level)
    ripas = ripas_of(table.entries[index])
    top = (start & -size) + size
    for entry in table.entries[index + 1 : TABLE_ENTRIES]:
        if top >= end or is_table(entry, level) or ripas_of(entry) != ripas:
            break
        top += size
    return RsiStatus.SUCCESS, min(top, end), ripas
