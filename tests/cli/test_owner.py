"""The order of events at the end of an instance, for processes that watch its directory."""

from pathlib import Path
from threading import Thread

import pytest

from pyvmm.cli.common.owner import Owner
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.options import VmOptions


def new_owner() -> Owner:
    """Return the owner of an instance that is started at once."""
    return Owner(VmOptions(name="r1", ram_size=64 << 20, sandbox="off"), is_started=True)


def test_what_was_said_is_there_when_the_end_is_told(tmp_path: Path) -> None:
    """The console output is stored before the instance is shown as shut off."""
    directory = Directory(tmp_path / "pyvmm")
    owner = new_owner()
    owner.claim(directory)
    kept: list[bytes | None] = []

    def look(status: Status) -> None:
        if status.state == State.STOPPED:
            kept.append(directory.console_log("r1"))

    owner.lifecycle.subscribe(look)
    thread = Thread(target=owner.run, kwargs={"keeps_name": True}, daemon=True)
    thread.start()
    thread.join()
    assert len(kept) == 1
    assert kept[0]
    assert kept[0] == owner.lifecycle.console_log.tail()


def test_an_instance_without_a_log_is_none(tmp_path: Path) -> None:
    """If the log cannot be created, the name is released."""
    directory = Directory(tmp_path / "pyvmm")
    owner = new_owner()
    owner.claim(directory)
    (directory.home("r1") / "log").mkdir()  # no file can be made there
    with pytest.raises(OSError, match="directory"):
        owner.log_to_file()
    assert [path.name for path in directory.path.iterdir()] == [".lock"]


def test_an_end_is_told_though_nothing_can_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the console output is lost."""
    directory = Directory(tmp_path / "pyvmm")
    owner = new_owner()
    owner.claim(directory)
    (directory.home("r1") / "console").mkdir()  # no file can be made there
    thread = Thread(target=owner.run, kwargs={"keeps_name": True}, daemon=True)
    thread.start()
    thread.join()
    status = directory.find("r1")
    assert (status.state, status.exit_code) == (State.STOPPED, 0)
    assert directory.console_log("r1") is None
    assert "pyvmm: the console output is lost:" in capsys.readouterr().err
