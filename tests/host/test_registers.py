"""Registers as debuggers name them."""

from __future__ import annotations

import pytest

from pyvmm.host.registers import CODE_MASKS, BadValueError
from tests.core.pauth import Regime
from tests.core.system import Bench


@pytest.mark.parametrize("sizes", [(16, 16), (25, 16), (16, 39), (0, 63)])
@pytest.mark.parametrize("tbi", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("tbid", [(0, 0), (1, 1)])
def test_masks_of_authentication_codes_follow_tcr(
    sizes: tuple[int, int], tbi: tuple[int, int], tbid: tuple[int, int]
) -> None:
    """The masks for data and code, in both halves, match the manual."""
    regime, bench = Regime(sizes, tbi, tbid), Bench()
    bench.state.tcr_el1 = regime.tcr
    for register in CODE_MASKS:
        half = int(register.name.endswith("_high"))
        data = "dmask" in register.name
        expected = regime.code_bits(half << 55, half, data=data)
        assert register.get(bench.state) == expected
        with pytest.raises(BadValueError):
            register.set(bench.state, 0)
