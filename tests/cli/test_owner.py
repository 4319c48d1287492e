"""The order in which an instance ends, for those who look at its directory meanwhile."""

from pathlib import Path
from threading import Thread

from pyvmm.cli.owner import Owner, Wish
from pyvmm.vm.api import State, Status
from pyvmm.vm.directory import Directory
from pyvmm.vm.options import VmOptions


def test_what_was_said_is_there_when_the_end_is_told(tmp_path: Path) -> None:
    """Who finds an instance shut off finds what its console said, too."""
    directory = Directory(tmp_path / "pyvmm")
    owner = Owner(Wish(VmOptions(name="r1", ram_size=64 << 20), is_started=True))
    owner.claim(directory)
    kept: list[bytes] = []

    def look(status: Status) -> None:
        if status.state == State.STOPPED:
            kept.append(directory.console_log("r1"))

    owner.lifecycle.subscribe(look)
    life = Thread(target=owner.live, kwargs={"keeps_name": True})
    life.start()
    life.join()
    assert len(kept) == 1
    assert kept[0]
    assert kept[0] == owner.lifecycle.console_log.tail()
