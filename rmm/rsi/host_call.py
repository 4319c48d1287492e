"""RSI_HOST_CALL: a realm calls its host and passes registers of its choice."""

from typing import Final

from pyvmm.arch.rmi import RecExitReason
from pyvmm.arch.rsi import HOST_CALL_ALIGNMENT, HostCall, RsiFid, RsiStatus
from rmm.commands import rsi_command
from rmm.errors import RsiError
from rmm.rec import HostExit, Rec
from rmm.rmm import Rmm

_CALL: Final = HostCall.packer()
_GPRS: Final = HostCall.gprs
_IMM_MASK: Final = 0xFFFF


@rsi_command(RsiFid.RSI_HOST_CALL)
def host_call(rmm: Rmm, rec: Rec, ipa: int) -> HostExit:
    """Pass the RsiHostCall at ``ipa`` to the host; the next entry writes the answer there.

    Spec: DEN0137 1.0, RSI_HOST_CALL.
    Raises: RsiError(ERROR_INPUT) if ``ipa`` is not protected or not aligned to 256 bytes, or its
    RIPAS is EMPTY.
    """
    rtt = rec.realm.rtt
    if ipa & (HOST_CALL_ALIGNMENT - 1) or not rtt.is_protected(ipa):
        raise RsiError(RsiStatus.ERROR_INPUT)
    imm, *gprs = _CALL.unpack(rmm.memory.read(rtt.ram_page(ipa), _CALL.size))
    rec.host_call_ipa = ipa
    rec.reply(RsiStatus.SUCCESS)
    leave = HostExit(RecExitReason.HOST_CALL, gprs=tuple(gprs))
    leave.imm = imm & _IMM_MASK
    return leave


def complete_host_call(rmm: Rmm, rec: Rec, ipa: int, gprs: tuple[int, ...]) -> None:
    """Write the host's answer to the realm's RsiHostCall.

    Raises: RealmPageMissing or RsiError if the page is no longer there.
    """
    pa = rec.realm.rtt.ram_page(ipa)
    rmm.memory.write(pa + _GPRS.offset, _GPRS.struct.pack(*gprs))
    rec.reply(RsiStatus.SUCCESS)
