"""RSI_VERSION and RSI_FEATURES: the capabilities of this RMM."""

from pyvmm.arch.rsi import VERSION_1_0, RsiFid, RsiStatus
from rmm.commands import rsi_command
from rmm.rec import Rec
from rmm.rmm import Rmm


@rsi_command(RsiFid.RSI_VERSION)
def version(_rmm: Rmm, _rec: Rec, req: int) -> tuple[int, ...]:
    """Return the lowest and highest revision of the interface, and whether it supports ``req``.

    Spec: DEN0137 1.0, RSI_VERSION.
    """
    status = RsiStatus.SUCCESS if req == VERSION_1_0 else RsiStatus.ERROR_INPUT
    return status, VERSION_1_0, VERSION_1_0


@rsi_command(RsiFid.RSI_FEATURES)
def features(_rmm: Rmm, _rec: Rec, index: int) -> tuple[int, ...]:
    """Read a feature register; RSI 1.0 defines none, so each reads as zero.

    Spec: DEN0137 1.0, RSI_FEATURES.
    """
    del index
    return RsiStatus.SUCCESS, 0
