"""RSI_MEASUREMENT_*: a realm reads its measurements and extends its own four."""

from struct import Struct
from typing import Final

from pyvmm.arch.rsi import MEASUREMENT_SIZE, NUM_MEASUREMENTS, RsiFid, RsiStatus
from rmm.commands import rsi_command
from rmm.errors import RsiError
from rmm.rec import Rec
from rmm.rmm import Rmm

REGISTERS: Final = Struct("<8Q")  # 64 bytes in eight registers


@rsi_command(RsiFid.RSI_MEASUREMENT_READ)
def measurement_read(_rmm: Rmm, rec: Rec, index: int) -> tuple[int, ...]:
    """Read a measurement, zero padded: index 0 is the RIM, 1 to 4 are the REMs.

    Spec: DEN0137 1.0, RSI_MEASUREMENT_READ.
    Raises: RsiError(ERROR_INPUT) if the measurement does not exist.
    """
    if index >= NUM_MEASUREMENTS:
        raise RsiError(RsiStatus.ERROR_INPUT)
    return RsiStatus.SUCCESS, *REGISTERS.unpack(rec.realm.measurements.padded(index))


@rsi_command(RsiFid.RSI_MEASUREMENT_EXTEND)
def measurement_extend(
    _rmm: Rmm,
    rec: Rec,
    index: int,
    size: int,
    value_0: int,
    value_1: int,
    value_2: int,
    value_3: int,
    value_4: int,
    value_5: int,
    value_6: int,
    value_7: int,
) -> tuple[int, ...]:
    """Extend the REM ``index`` with the first ``size`` bytes of the values.

    Spec: DEN0137 1.0, RSI_MEASUREMENT_EXTEND.
    Raises: RsiError(ERROR_INPUT) if the REM does not exist or ``size`` is above 64.
    """
    if not 0 < index < NUM_MEASUREMENTS or size > MEASUREMENT_SIZE:
        raise RsiError(RsiStatus.ERROR_INPUT)
    data = REGISTERS.pack(value_0, value_1, value_2, value_3, value_4, value_5, value_6, value_7)
    rec.realm.measurements.extend_rem(index, data[:size])
    return (RsiStatus.SUCCESS,)
