"""A HES with a machine that is on."""

from pathlib import Path

import pytest

from pyvmm.arch.psa import PsaStatus
from tests.hes.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A HES with a development identity, and a machine that has left reset."""
    rig = Rig(tmp_path)
    assert rig.power_on().status is PsaStatus.SUCCESS
    return rig
