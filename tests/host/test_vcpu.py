"""The threads of the vCPUs, without guests."""

import threading

import pytest

from pyvmm.arch.system import NoThreadError
from pyvmm.host.guest import Outcome
from pyvmm.host.vcpu import Vcpus
from tests.shortage import refuse_threads


def test_vcpus_without_enough_threads_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an error, and the existing threads end."""
    refuse_threads(monkeypatch, "vcpu", spare=2)
    before = threading.active_count()
    vcpus = Vcpus(3, lambda _: None, lambda _: None)
    with pytest.raises(NoThreadError):
        vcpus.start()
    assert threading.active_count() == before + 2
    vcpus.finish(Outcome.STOPPED)
    assert vcpus.wait() is Outcome.STOPPED
    assert threading.active_count() == before
