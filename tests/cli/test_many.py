"""Many realms at once: what each uses, and that nothing of them is left."""

from pathlib import Path

import pytest

from tests.cli.inside import verb
from tests.cli.instance import DONE, REALM, create, is_gone, left, result, status
from tests.cli.kernels import IDLE, kernel

MIB = 1 << 20
MAX_OVERHEAD = 60 * MIB


def takes(pid: int) -> int:
    """Return the memory of a process in bytes, with its share of shared pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kilobytes,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return kilobytes << 10


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_many_realms_live_at_once(runtime: Path, tmp_path: Path, count: int) -> None:
    """Each uses its memory and little more; destroyed, they leave nothing."""
    names = [f"r{number}" for number in range(count)]
    pids = [create(name, *REALM, str(kernel(tmp_path, IDLE))) for name in names]
    assert result(verb("start", "--all")) == DONE
    assert {status(name)["state"] for name in names} == {"running"}
    for pid in pids:
        touched = sum(
            path.stat().st_blocks * 512
            for path in Path(f"/proc/{pid}/fd").iterdir()
            if "memfd:pyvmm" in str(path.readlink())
        )
        assert takes(pid) <= touched + MAX_OVERHEAD
    assert result(verb("destroy", *names)) == DONE
    assert all(map(is_gone, pids))
    assert left(runtime) == []
