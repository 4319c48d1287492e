"""The runtime directory: names, running instances, and the remains of dead ones."""

import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from pyvmm.arch.errors import UserError
from pyvmm.vm.control.api import State, Status
from pyvmm.vm.control.directory import Claim, Directory
from pyvmm.vm.gdb.leftover import remove_noted

DEEP = b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def status(name: str = "r1", state: State = State.NEW) -> Status:
    """Return the status of an instance."""
    return Status(name=name, state=state, pid=1, kind="vm", num_cpus=1, ram_size=1 << 20, created=0)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """Return an empty directory."""
    return Directory(tmp_path / "pyvmm")


@pytest.fixture
def claims(directory: Directory) -> Iterator[list[Claim]]:
    """Return one claim, r1's; all that are added to it are closed at the end."""
    with ExitStack() as stack:
        made = [directory.claim(status())]
        yield made
        for claim in made:
            stack.callback(claim.listener.close)


def left(directory: Directory) -> list[str]:
    """Return what there is but the lock."""
    return sorted(path.name for path in directory.path.iterdir() if path.name != ".lock")


def test_a_name_lives_while_its_socket_listens(directory: Directory, claims: list[Claim]) -> None:
    """The socket counts, not the state file; the name is taken meanwhile."""
    assert directory.find("r1") == status()
    assert directory.statuses() == [status()]
    with pytest.raises(UserError, match="r1 exists and is new"):
        directory.claim(status())
    claims[0].listener.close()
    assert directory.find("r1").state == State.DEAD


def test_what_a_dead_instance_left_makes_room(directory: Directory, claims: list[Claim]) -> None:
    """Its socket is removed and bound again, and all its files are removed."""
    claims[0].log.write_text("old")
    claims[0].listener.close()
    claims.append(directory.claim(status()))
    assert directory.find("r1").state == State.NEW
    assert not claims[1].log.exists()


def test_the_next_one_removes_dead_ones_that_nobody_named(
    directory: Directory, claims: list[Claim]
) -> None:
    """They cannot be of use: each run has another name.  What has a given name stays."""
    for name, pid in (("guest-7", 7), ("guest-8", 9), ("guest-10", 10)):
        claims.append(directory.claim(replace(status(name), pid=pid)))
    for claim in claims[:3]:
        claim.listener.close()
    claims.append(directory.claim(status("r2")))
    assert [each.name for each in directory.statuses()] == ["guest-10", "guest-8", "r1", "r2"]


def test_what_is_shut_off_stays_until_it_is_cleaned_up(
    directory: Directory, claims: list[Claim]
) -> None:
    """Until then its name is taken."""
    claims[0].write(status(state=State.STOPPED))
    claims[0].release(keep=True)
    assert directory.find("r1").state == State.STOPPED
    with pytest.raises(UserError, match="r1 is shut off: pyvmm destroy r1 first"):
        directory.claim(status())
    directory.clean_up("r1")
    assert left(directory) == []


def test_a_release_leaves_nothing(directory: Directory, claims: list[Claim]) -> None:
    """The files stay only on request."""
    claims[0].log.write_text("words")
    claims[0].release(keep=False)
    assert left(directory) == []
    with pytest.raises(UserError, match="no instance r1"):
        directory.find("r1")


def test_cleaning_up_is_not_for_the_living(directory: Directory, claims: list[Claim]) -> None:
    """Otherwise an instance that has just been created would be lost."""
    with pytest.raises(UserError, match="runs again"):
        directory.clean_up("r1")
    assert directory.find("r1") == status()
    assert len(claims) == 1


def test_a_socket_elsewhere_goes_with_its_maker(
    directory: Directory, claims: list[Claim], tmp_path: Path
) -> None:
    """It stays while a process listens; cleaning up the name removes it."""
    path = tmp_path / "stub"
    with socket.socket(socket.AF_UNIX) as stub:
        stub.bind(str(path))
        stub.listen()
        claims[0].note_gdb(path)
        claims[0].listener.close()
        remove_noted(directory.home("r1") / "gdb")
        assert path.exists()
    directory.clean_up("r1")
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "socket", "link", "nothing"])
def test_what_others_have_put_there_stays(
    directory: Directory, claims: list[Claim], tmp_path: Path, kind: str
) -> None:
    """A file, another socket of the same name and a link to one are kept."""
    path, other = tmp_path / "stub", tmp_path / "other"
    _leave_socket(path)
    claims[0].note_gdb(path)
    claims[0].listener.close()
    path.unlink()
    match kind:
        case "file":
            path.write_text("words")
        case "socket":
            _leave_socket(path)
        case "link":
            _leave_socket(other)
            path.symlink_to(other)
        case _:
            assert kind == "nothing"
    before = set(tmp_path.iterdir())
    directory.clean_up("r1")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("note", [b"", b"\xff", b"{}", b'{"path": 1}', DEEP])
def test_a_note_that_cannot_be_read_is_nobody_s(
    directory: Directory, claims: list[Claim], note: bytes
) -> None:
    """It is removed with the rest."""
    (directory.home("r1") / "gdb").write_bytes(note)
    claims[0].listener.close()
    directory.clean_up("r1")
    assert left(directory) == []


def _leave_socket(path: Path) -> None:
    """Make a socket on which nobody listens."""
    with socket.socket(socket.AF_UNIX) as stub:
        stub.bind(str(path))


def test_one_of_many_gets_the_name(directory: Directory) -> None:
    """The others get a one-line error."""

    def claim(_: int) -> Claim | UserError:
        try:
            return directory.claim(status())
        except UserError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(claim, range(32)))
    winners = [each for each in results if isinstance(each, Claim)]
    assert len(winners) == 1
    winners[0].release(keep=False)


def test_status_that_cannot_be_read_is_that_of_a_dead(
    directory: Directory, claims: list[Claim]
) -> None:
    """With invalid data, no file, or only a socket, it is listed and can be cleaned up."""
    claims[0].listener.close()
    state = directory.home("r1") / "state"
    damages = (
        lambda: state.write_bytes(b"\xff{"),
        lambda: state.write_bytes(DEEP),
        state.unlink,
        directory.home("r1").rmdir,
    )
    for damage in damages:
        damage()
        assert [(each.name, each.state) for each in directory.statuses()] == [("r1", State.DEAD)]
    directory.clean_up("r1")
    assert directory.statuses() == []


def test_status_that_cannot_be_read_of_the_living_loses_nothing(
    directory: Directory, claims: list[Claim]
) -> None:
    """It may belong to another version: it is listed, and its name is taken."""
    (directory.home("r1") / "state").write_text('{"name": "r1", "state": "flying"}')
    assert directory.find("r1").state == State.RUNNING
    with pytest.raises(UserError, match="exists and is"):
        directory.claim(status())
    assert len(claims) == 1


def test_a_full_disk_does_not_stop_the_status(
    directory: Directory, claims: list[Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its final size from the start."""

    def refuse(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    long = replace(status(), reason="x" * 1000)
    size = (directory.home("r1") / "state").stat().st_size
    monkeypatch.setattr(Path, "write_bytes", refuse)
    claims[0].write(long)
    assert directory.find("r1") == long
    assert (directory.home("r1") / "state").stat().st_size == size
    assert sorted(path.name for path in directory.home("r1").iterdir()) == ["state"]


def test_a_place_that_takes_no_file_is_none(tmp_path: Path) -> None:
    """Listing the instances fails with an error."""
    (tmp_path / "pyvmm").mkdir(mode=0o700)
    (tmp_path / "pyvmm" / ".lock").mkdir()
    with pytest.raises(OSError, match="directory"):
        Directory(tmp_path / "pyvmm")


def test_a_full_disk_takes_no_new_instance(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request fails with an error, and no files remain."""

    def refuse(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        directory.claim(status())
    assert left(directory) == []


def test_a_path_longer_than_an_address_will_do(tmp_path: Path) -> None:
    """A deep home directory works."""
    directory = Directory(tmp_path / ("d" * 100) / "pyvmm")
    claim = directory.claim(status())
    assert directory.find("r1") == status()
    claim.release(keep=False)


def test_the_directory_is_for_its_user_alone(directory: Directory, claims: list[Claim]) -> None:
    """This holds for the directory and its sockets."""
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.socket_path("r1").stat().st_mode) == 0o600
    assert claims


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    """A directory that another user could replace is rejected too."""
    (tmp_path / "pyvmm").mkdir()
    (tmp_path / "pyvmm").chmod(0o750)
    with pytest.raises(UserError, match="open to other users"):
        Directory(tmp_path / "pyvmm")


def test_the_place_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no fallback, which others would not find; a directory open to others is rejected."""
    place = tmp_path / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    place.mkdir()
    for mode in (0o700, 0o755, 0o1777):
        place.chmod(mode)
        assert Directory.of_user().path == place / "pyvmm"
    place.chmod(0o777)
    with pytest.raises(UserError, match=f"chmod go-w {place}"):
        Directory.of_user()
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.devnull)
    with pytest.raises(OSError, match="Not a directory"):
        Directory.of_user()
    for name in ("", "relative"):  # as if there were none
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.setattr("platformdirs.user_runtime_path", lambda _: place / "other")
        place.chmod(0o700)
        assert Directory.of_user().path == place / "other"


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root may use it."""
    (tmp_path / "pyvmm").mkdir(mode=0o700)
    if os.geteuid():
        pytest.skip("only root can give a directory away")
    os.chown(tmp_path / "pyvmm", 4711, -1)
    Directory(tmp_path / "pyvmm")
    monkeypatch.setattr(os, "geteuid", lambda: 4712)
    with pytest.raises(UserError, match="another user's"):
        Directory(tmp_path / "pyvmm")
