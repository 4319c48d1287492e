"""The 9P server and its device."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.p9_messages import Type
from pyvmm.devices.p9_server import MAX_MSIZE, P9Server
from pyvmm.devices.shared_directory import SharedDirectory
from pyvmm.devices.virtio.p9 import VirtioP9
from pyvmm.devices.workers import Workers
from tests.devices.driver import Driver
from tests.devices.hosts import Inline
from tests.devices.p9_client import ROOT, P9Client, message, text
from tests.sequences import sequences
from tests.waiting import wait_until

MAX_OPEN = 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with one file of each kind, and a secret beside it."""
    (tmp_path / "secret").write_text("not shared")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_text("content")
    (tree / "up").symlink_to("../secret")
    (tree / "away").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe")
    return tree


@pytest.fixture
def server(tree: Path) -> Iterator[P9Server]:
    """Return a server of the directory, with few handles and open files."""
    directory = SharedDirectory(tree, max_handles=8)
    server = P9Server(directory, max_open=MAX_OPEN)
    yield server
    server.reset()
    assert not directory._num_nodes  # everything was released
    directory.close()


@pytest.fixture
def client(server: P9Server) -> P9Client:
    """Return its client, with a session."""
    client = P9Client(server.handle)
    client.start()
    return client


def num_open_files() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(call: Callable[[], object]) -> int:
    """Return the errno with which a request fails."""
    with pytest.raises(OSError, match="E") as caught:
        call()
    assert caught.value.errno
    return caught.value.errno


def test_session_agrees_on_a_size_and_a_version(server: P9Server) -> None:
    """The smaller of the two; an unknown version is named so; a tiny size is refused."""
    client = P9Client(server.handle)
    assert client.start(8192) == 8192
    assert client.start() == MAX_MSIZE
    body = client.call(Type.VERSION, pack("<I", 8192) + text(b"9P2000.u"))
    assert body[4:] == text(b"unknown")
    assert refused(lambda: client.start(100)) == errno.EINVAL


def test_files_are_read_written_and_listed(client: P9Client, tree: Path) -> None:
    """What is written is in the host's file, and the other way round."""
    assert client.read(client.open("file")) == b"content"
    fid = client.create(b"new", mode=0o640, directory="sub")
    assert client.write(fid, b"data", 3) == 4
    assert (tree / "sub/new").read_bytes() == b"\0\0\0data"
    assert stat.S_IMODE((tree / "sub/new").stat().st_mode) == 0o640
    assert client.attributes(fid)[3] == 7
    client.call(Type.FSYNC, pack("<II", fid, 0))
    assert sorted(client.names(client.open(""))) == sorted(
        [b".", b"..", b"file", b"sub", b"up", b"away", b"pipe"]
    )


def test_directory_is_listed_in_parts(client: P9Client, tree: Path) -> None:
    """Every name comes once, however little fits into a reply."""
    for number in range(200):
        (tree / f"sub/{number:0200}").touch()
    names = client.names(client.open("sub"), 600)
    assert len(names) == len(set(names)) == 202


def test_names_are_made_moved_and_removed(client: P9Client, tree: Path) -> None:
    """Directories, links, hard links, FIFOs; a fid follows its file to the new name."""
    directory = client.walk("sub")
    client.call(Type.MKDIR, pack("<I", directory) + text(b"a") + pack("<II", 0o755, 0))
    client.call(Type.SYMLINK, pack("<I", directory) + text(b"l") + text(b"/t") + pack("<I", 0))
    client.call(Type.LINK, pack("<II", directory, client.walk("file")) + text(b"hard"))
    pipe = pack("<IIII", stat.S_IFIFO | 0o600, 0, 0, 0)
    client.call(Type.MKNOD, pack("<I", directory) + text(b"p") + pipe)
    assert client.call(Type.READLINK, pack("<I", client.walk("sub/l"))) == text(b"/t")
    assert (tree / "sub/hard").stat().st_nlink == 2
    inner = client.walk("sub/a")
    client.rename(directory, b"a", ROOT, b"b")
    client.create(b"deep", directory="b")
    assert client.attributes(client.walk("deep", inner))[3] == 0
    client.unlink(client.walk("b"), b"deep")
    client.unlink(ROOT, b"b", 0x200)
    assert refused(lambda: client.walk("deep", inner)) == errno.ENOENT


def test_attributes_change(client: P9Client, tree: Path) -> None:
    """Mode without set-user-ID, size, times."""
    fid = client.walk("file")
    client.change(fid, 1 | 8 | 0x1B0, mode=0o4711, size=3)
    status = (tree / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o711, 3)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_002, 3_000_000_004)
    assert client.attributes(fid)[3] == 3


def test_an_open_file_outlives_its_name(client: P9Client) -> None:
    """It is read, written and measured after its removal; its fid cannot be walked from."""
    fid = client.create(b"brief")
    client.unlink(ROOT, b"brief")
    assert client.write(fid, b"still") == 5
    assert client.read(fid) == b"still"
    assert client.attributes(fid)[3] == 5
    client.change(fid, 8, size=2)
    assert client.read(fid) == b"st"


@pytest.mark.parametrize("path", ["up", "away"])
def test_no_link_is_followed(client: P9Client, path: str) -> None:
    """A link is only a text: it cannot be opened, nor walked through."""
    assert refused(lambda: client.open(path)) == errno.ELOOP
    assert refused(lambda: client.walk(f"{path}/secret")) == errno.ENOENT
    assert refused(lambda: client.create(b"up", os.O_WRONLY)) == errno.ELOOP
    assert refused(lambda: client.change(client.walk(path), 8)) == errno.EINVAL
    assert refused(lambda: client.change(client.walk(path), 1)) == errno.EOPNOTSUPP


NAME_AT: dict[int, tuple[bytes, bytes]] = {  # what stands before and after a name in a request
    Type.WALK: (pack("<IIH", ROOT, 99, 1), b""),
    Type.LCREATE: (pack("<I", ROOT), pack("<III", os.O_RDWR, 0o600, 0)),
    Type.MKDIR: (pack("<I", ROOT), pack("<II", 0o755, 0)),
    Type.SYMLINK: (pack("<I", ROOT), text(b"t") + pack("<I", 0)),
    Type.MKNOD: (pack("<I", ROOT), pack("<IIII", 0o600, 0, 0, 0)),
    Type.LINK: (pack("<II", ROOT, ROOT), b""),
    Type.UNLINKAT: (pack("<I", ROOT), pack("<I", 0x200)),
    Type.RENAMEAT: (pack("<I", ROOT) + text(b"file") + pack("<I", ROOT), b""),
}


@pytest.mark.parametrize("name", [b"..", b".", b"", b"sub/../..", b"/etc/passwd", b"a\0b"])
@pytest.mark.parametrize("kind", NAME_AT)
def test_only_names_of_entries_are_taken(client: P9Client, kind: int, name: bytes) -> None:
    """By every request that has a name."""
    before, after = NAME_AT[kind]
    assert refused(lambda: client.call(kind, before + text(name) + after)) == errno.EINVAL


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_pipe_does_not_block(client: P9Client, flags: int) -> None:
    """It is never opened."""
    assert refused(lambda: client.open("pipe", flags)) == errno.ENXIO


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, 0xF000])
def test_no_device_is_made(client: P9Client, kind: int) -> None:
    """It would be one of the host."""
    body = pack("<I", ROOT) + text(b"dev") + pack("<IIII", kind | 0o666, 1, 3, 0)
    assert refused(lambda: client.call(Type.MKNOD, body)) == errno.EPERM


def test_read_only_directory_stays_as_it_is(tree: Path) -> None:
    """Every change is refused; reading works."""
    directory = SharedDirectory(tree, is_read_only=True)
    server = P9Server(directory)
    client = P9Client(server.handle)
    client.start()
    assert client.read(client.open("file")) == b"content"
    for call in (
        lambda: client.open("file", os.O_WRONLY),
        lambda: client.open("file", os.O_RDONLY | os.O_TRUNC),
        lambda: client.create(b"new"),
        lambda: client.create(b"file"),
        lambda: client.unlink(ROOT, b"file"),
        lambda: client.rename(ROOT, b"file", ROOT, b"other"),
        lambda: client.change(client.walk("file"), 8),
    ):
        assert refused(call) == errno.EROFS
    assert (tree / "file").read_text() == "content"
    server.reset()
    directory.close()


def test_fids_and_open_files_are_bounded(client: P9Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limits there is an error, and room again after a clunk."""
    fids = [client.open("file") for _ in range(MAX_OPEN)]
    assert refused(lambda: client.open("file")) == errno.EMFILE
    client.clunk(fids[0])
    client.open("file")
    monkeypatch.setattr("pyvmm.devices.p9_server.MAX_FIDS", 20)
    numbers = iter(range(50))
    assert refused(lambda: [client.walk("") for _ in numbers]) == errno.ENFILE


def test_wrong_fids_are_refused(client: P9Client) -> None:
    """Unknown, in use, not open, open twice."""
    fid = client.open("file")
    assert refused(lambda: client.read(1234)) == errno.EBADF
    assert refused(lambda: client.read(client.walk("file"))) == errno.EBADF
    assert refused(lambda: client.attach(ROOT)) == errno.EBADF
    assert refused(lambda: client.call(Type.LOPEN, pack("<II", fid, 0))) == errno.EBADF
    assert refused(lambda: client.call(Type.REMOVE, pack("<I", fid))) == errno.EOPNOTSUPP
    assert refused(lambda: client.clunk(fid)) == errno.EBADF


def test_extended_attributes_are_not_supported(client: P9Client) -> None:
    """Linux then takes files to have none."""
    body = pack("<II", ROOT, 99) + text(b"security.capability")
    assert refused(lambda: client.call(30, body)) == errno.EOPNOTSUPP


def test_replaced_file_is_found_under_its_name(client: P9Client, tree: Path) -> None:
    """An old fid may keep the old file; a new walk finds what the host has put there."""
    old = client.walk("file")
    before = client.attributes(old)
    (tree / "next").write_text("other content")
    (tree / "next").replace(tree / "file")
    assert client.attributes(client.walk("file"))[3] == 13
    assert client.attributes(old) == before


def test_many_files_need_few_descriptors(client: P9Client, tree: Path) -> None:
    """A fid's descriptor may be closed and opened again at any time."""
    for number in range(100):
        (tree / f"sub/{number}").write_text(str(number))
    before = num_open_files()
    fids = [client.walk(f"sub/{number}") for number in range(100)]
    assert num_open_files() <= before + 8
    client.rename(ROOT, b"sub", ROOT, b"bus")
    assert [client.attributes(fid)[3] for fid in fids] == [len(str(n)) for n in range(100)]


def test_race_for_a_name_does_not_lead_out(client: P9Client, tree: Path) -> None:
    """A name that changes between a directory and a link to one outside, all the time."""
    (tree / "dir").mkdir()
    (tree / "dir/secret").write_text("shared")
    (tree / "link").symlink_to(tree.parent)
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            (tree / "dir").rename(tree / "spare")
            (tree / "link").rename(tree / "dir")
            (tree / "dir").rename(tree / "link")
            (tree / "spare").rename(tree / "dir")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                fid = client.open("dir/secret")
            except OSError:
                continue
            seen.add(client.read(fid))
            client.clunk(fid)
    finally:
        is_over.set()
        thread.join()
    assert seen == {b"shared"}


@pytest.fixture(scope="module")
def abused_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for all examples, with a secret beside it."""
    place = tmp_path_factory.mktemp("abused")
    (place / "secret").write_text("not shared")
    (place / "tree/sub").mkdir(parents=True)
    return place / "tree"


bodies = st.builds(
    b"".join,
    st.lists(
        st.one_of(
            st.integers(0, 6).map(lambda fid: pack("<I", fid)),
            st.sampled_from([b"file", b"sub", b"..", b"x", b"up"]).map(text),
            st.sampled_from([0, 1, 2, 0o100, 0o644, 1 << 31, (1 << 64) - 1]).map(
                lambda number: pack("<Q", number)
            ),
            st.binary(max_size=9),
        ),
        max_size=7,
    ),
)
requests = st.tuples(st.one_of(st.sampled_from(list(Type)), st.integers(0, 255)), bodies)


def survive(tree: Path, script: list[tuple[int, bytes]]) -> None:
    """Let a server answer any requests; it works afterwards, and nothing has left the tree."""
    if not (tree / "up").is_symlink():
        (tree / "up").symlink_to("../secret")
    if not (tree / "file").exists():
        (tree / "file").write_text("content")
    directory = SharedDirectory(tree, max_handles=8)
    server = P9Server(directory, max_open=MAX_OPEN)
    client = P9Client(server.handle)
    client.start()
    for kind, body in script:
        answer = server.handle(message(kind, body))
        assert len(answer) <= MAX_MSIZE
        assert int.from_bytes(answer[:4], "little") == len(answer)
        assert answer[4] in {kind + 1 & 0xFF, Type.LERROR + 1}
    assert client.start() == MAX_MSIZE
    assert b"." in client.names(client.open(""))
    server.reset()
    assert not directory._num_nodes  # everything was released
    directory.close()
    assert (tree.parent / "secret").read_text() == "not shared"


@given(script=st.lists(requests, max_size=12))
def test_server_is_total(abused_tree: Path, script: list[tuple[int, bytes]]) -> None:
    """Any types and fields: every request has a reply."""
    survive(abused_tree, script)


@pytest.mark.slow
def test_server_is_total_for_long(abused_tree: Path, seed: int) -> None:
    """This is the same a million times."""
    for each in sequences(requests, seed):
        survive(abused_tree, each)


@given(data=st.binary(max_size=40))
def test_server_is_total_over_bytes(data: bytes) -> None:
    """Also over what is not a message."""
    directory = SharedDirectory(Path("/"), is_read_only=True)
    assert len(P9Server(directory).handle(data)) >= 11
    directory.close()


# --- the device ---------------------------------------------------------------------------------


def test_device_carries_messages(server: P9Server) -> None:
    """The tag is in its configuration; a reply that does not fit is cut."""
    driver = Driver(VirtioP9("share", server, Inline())).start()
    assert driver.config(0, 2) == 5
    assert bytes(driver.config(2 + i, 1) for i in range(5)) == b"share"
    hello = message(Type.VERSION, pack("<I", 8192) + text(b"9P2000.L"))
    whole, cut = (driver.rings[0].add([hello[:5], hello[5:]], [size]) for size in (64, 9))
    driver.kick()
    assert [size for _, size in driver.rings[0].used_entries()] == [21, 9]
    assert whole.answer()[7:21] == pack("<I", 8192) + text(b"9P2000.L")
    assert cut.answer() == whole.answer()[:9]
    assert driver.irq.level


@pytest.fixture
def worker() -> Iterator[Workers]:
    """Return a thread."""
    workers = Workers("test", max_threads=1)
    yield workers
    assert workers.close(5)


class SlowServer:
    """A server that waits before it replies."""

    max_message = 4096

    def __init__(self) -> None:
        self.may_reply = threading.Event()
        self.log: list[bytes] = []

    def handle(self, message: bytes) -> bytes:
        """Wait."""
        self.log.append(message)
        assert self.may_reply.wait(5)
        return b"reply"

    def reset(self) -> None:
        """Note it."""
        self.log.append(b"reset")


def test_device_does_not_wait_for_its_server(worker: Workers) -> None:
    """A notification returns at once; the reply comes later."""
    server = SlowServer()
    driver = Driver(VirtioP9("slow", server, worker)).start()
    driver.rings[0].add([b"one"], [5])
    driver.kick()
    wait_until(lambda: server.log == [b"reset", b"one"], 5)
    assert driver.rings[0].used_entries() == []
    server.may_reply.set()
    wait_until(driver.irq.is_high, 5)
    assert [size for _, size in driver.rings[0].used_entries()] == [5]


def test_reset_drops_the_reply_that_is_under_way(worker: Workers) -> None:
    """The next driver gets its own replies only, from a server without the old client's state."""
    server = SlowServer()
    driver = Driver(VirtioP9("slow", server, worker)).start()
    driver.rings[0].add([b"old"], [5])
    driver.kick()
    wait_until(lambda: server.log == [b"reset", b"old"], 5)
    driver.start()
    server.may_reply.set()
    driver.rings[0].add([b"new"], [5])
    driver.kick()
    wait_until(driver.irq.is_high, 5)
    assert server.log == [b"reset", b"old", b"reset", b"new"]
    assert len(driver.rings[0].used_entries()) == 1
