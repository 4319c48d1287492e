"""The FUSE server and the virtio-fs device."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.fuse_server import FuseServer, Op
from pyvmm.devices.shared_directory import SharedDirectory
from pyvmm.devices.virtio.fs import VirtioFs
from tests.devices.driver import Driver
from tests.devices.fuse_client import ROOT, UNIQUE, FuseClient, message
from tests.devices.hosts import Inline
from tests.sequences import sequences

MAX_OPEN, MAX_NODES = 8, 20


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
def server(tree: Path) -> Iterator[FuseServer]:
    """Return a server of the directory."""
    directory = SharedDirectory(tree, max_handles=8)
    server = FuseServer(directory, max_open=MAX_OPEN, max_nodes=MAX_NODES)
    yield server
    server.reset()
    assert not directory._num_nodes  # everything was released
    directory.close()


@pytest.fixture
def client(server: FuseServer) -> FuseClient:
    """Return its client, with a session."""
    client = FuseClient(server.handle)
    client.start()
    return client


def refused(call: Callable[[], object]) -> int:
    """Return the errno with which a request fails."""
    with pytest.raises(OSError, match="E") as caught:
        call()
    assert caught.value.errno
    return caught.value.errno


def test_files_are_read_written_and_listed(client: FuseClient, tree: Path) -> None:
    """What is written is in the host's file, and the other way round."""
    assert client.read(client.open("file")) == b"content"
    file = client.create(b"new", client.lookup("sub"), 0o640)
    assert client.write(file, b"data", 3) == 4
    client.call(Op.FSYNC, file[0], pack("<QII", file[1], 1, 0))
    client.release(file)
    assert refused(lambda: client.read(file)) == errno.EBADF
    assert (tree / "sub/new").read_bytes() == b"\0\0\0data"
    assert stat.S_IMODE((tree / "sub/new").stat().st_mode) == 0o640
    assert client.attributes(file[0]) == (stat.S_IFREG | 0o640, 7)
    names = [b".", b"..", b"file", b"sub", b"up", b"away", b"pipe"]
    assert sorted(client.names(client.open("", op=Op.OPENDIR))) == sorted(names)


def test_directory_is_listed_in_parts(client: FuseClient, tree: Path) -> None:
    """Every name comes once, however little fits into a reply."""
    for number in range(200):
        (tree / f"sub/{number:0200}").touch()
    names = client.names(client.open("sub", op=Op.OPENDIR), 600)
    assert len(names) == len(set(names)) == 202


def test_names_are_made_moved_and_removed(client: FuseClient, tree: Path) -> None:
    """Directories, links, hard links, FIFOs; a node follows its file to the new name."""
    directory = client.lookup("sub")
    client.call(Op.MKDIR, directory, pack("<II", 0o755, 0) + b"a\0")
    client.call(Op.SYMLINK, directory, b"l\0/target\0")
    client.call(Op.LINK, directory, pack("<Q", client.lookup("file")) + b"hard\0")
    client.call(Op.MKNOD, directory, pack("<IIII", stat.S_IFIFO | 0o600, 0, 0, 0) + b"p\0")
    assert client.call(Op.READLINK, client.lookup("sub/l")) == b"/target"
    assert (tree / "sub/hard").stat().st_nlink == 2
    inner = client.lookup("sub/a")
    client.call(Op.RENAME, directory, pack("<Q", ROOT) + b"a\0b\0")
    client.create(b"deep", inner)
    assert client.attributes(client.lookup("b/deep"))[1] == 0
    client.call(Op.UNLINK, inner, b"deep\0")
    client.call(Op.RMDIR, ROOT, b"b\0")
    assert refused(lambda: client.lookup("x", inner)) == errno.ENOENT


def test_attributes_change(client: FuseClient, tree: Path) -> None:
    """Mode without set-user-ID, size, times."""
    node = client.lookup("file")
    client.change(node, 1 | 8 | 16 | 32, mode=0o4711, size=3)
    status = (tree / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o711, 3)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_002, 3_000_000_004)
    client.change(node, 16 | 128)
    assert (tree / "file").stat().st_atime_ns > 1_000_000_002


@pytest.mark.parametrize("path", ["up", "away"])
def test_no_link_is_followed(client: FuseClient, path: str) -> None:
    """A link is only a text: it cannot be opened, nor walked through."""
    assert refused(lambda: client.open(path)) == errno.ELOOP
    assert refused(lambda: client.lookup(f"{path}/secret")) == errno.ENOTDIR


@pytest.mark.parametrize("name", [b"..", b".", b"", b"sub/../..", b"/etc/passwd"])
@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.LOOKUP, b""),
        (Op.UNLINK, b""),
        (Op.RMDIR, b""),
        (Op.MKDIR, bytes(8)),
        (Op.MKNOD, bytes(16)),
        (Op.CREATE, bytes(16)),
        (Op.LINK, pack("<Q", ROOT)),
        (Op.RENAME, pack("<Q", ROOT) + b"file\0"),
    ],
)
def test_only_names_of_entries_are_taken(
    client: FuseClient, op: Op, body: bytes, name: bytes
) -> None:
    """By every request that has a name."""
    assert refused(lambda: client.call(op, ROOT, body + name + b"\0")) == errno.EINVAL


def test_a_pipe_does_not_block_and_a_device_is_not_made(client: FuseClient) -> None:
    """Neither is ever opened."""
    assert refused(lambda: client.open("pipe", os.O_RDWR)) == errno.ENXIO
    device = pack("<IIII", stat.S_IFCHR | 0o666, 0x103, 0, 0) + b"null\0"
    assert refused(lambda: client.call(Op.MKNOD, ROOT, device)) == errno.EPERM


def test_nodes_and_open_files_are_bounded(client: FuseClient, tree: Path) -> None:
    """Beyond the limits there is an error, and room again for what was released."""
    files = [client.open("file") for _ in range(MAX_OPEN)]
    assert refused(lambda: client.open("file")) == errno.EMFILE
    client.release(files[0])
    client.open("file")
    for number in range(MAX_NODES):
        (tree / f"sub/{number}").touch()
    client.lookup("sub")
    for number in range(MAX_NODES - 2):
        client.lookup(f"sub/{number}")
    assert refused(lambda: client.lookup(f"sub/{MAX_NODES - 1}")) == errno.ENFILE
    client.forget(client.lookup("sub/0"), 2)
    client.lookup(f"sub/{MAX_NODES - 1}")


def test_node_is_known_until_it_is_forgotten_as_often_as_told(client: FuseClient) -> None:
    """One number for one file, however often it is looked up."""
    numbers = {client.lookup("file") for _ in range(3)}
    (number,) = numbers
    client.forget(number, 2)
    assert client.attributes(number)[1] == 7
    client._send(message(Op.BATCH_FORGET, 0, pack("<IIQQ", 1, 0, number, 1)))
    assert refused(lambda: client.attributes(number)) == errno.ESTALE


def test_names_of_one_file_share_a_number(client: FuseClient, tree: Path) -> None:
    """So that the guest has one cache for them; another file gets another number."""
    number = client.lookup("file")
    client.call(Op.LINK, ROOT, pack("<Q", number) + b"hard\0")
    assert client.lookup("hard") == number
    client.call(Op.UNLINK, ROOT, b"hard\0")
    assert client.lookup("file") == number
    (tree / "next").write_text("other content")
    (tree / "next").replace(tree / "file")
    assert client.lookup("file") != number
    assert client.attributes(client.lookup("file"))[1] == 13


def test_unknown_requests_are_refused(client: FuseClient) -> None:
    """Extended attributes, for example: Linux then does without."""
    assert refused(lambda: client.call(22, ROOT, b"x\0")) == errno.ENOSYS
    assert refused(lambda: client.call(Op.INIT, 0, pack("<IIII", 7, 30, 0, 0))) == errno.EPROTO
    assert refused(lambda: client.call(Op.GETATTR, ROOT, b"")) == errno.EINVAL
    assert client._send(b"short") == b""


def test_read_only_directory_stays_as_it_is(tree: Path) -> None:
    """Every change is refused; reading works."""
    directory = SharedDirectory(tree, is_read_only=True)
    server = FuseServer(directory)
    client = FuseClient(server.handle)
    client.start()
    assert client.read(client.open("file")) == b"content"
    for call in (
        lambda: client.open("file", os.O_WRONLY),
        lambda: client.create(b"new"),
        lambda: client.call(Op.UNLINK, ROOT, b"file\0"),
        lambda: client.change(client.lookup("file"), 8),
    ):
        assert refused(call) == errno.EROFS
    server.reset()
    directory.close()


def test_device_carries_messages(server: FuseServer) -> None:
    """The tag and one queue are in its configuration; FORGET gets its buffers back."""
    driver = Driver(VirtioFs("share", server, Inline())).start()
    assert bytes(driver.config(i, 1) for i in range(36)) == b"share".ljust(36, b"\0")
    assert driver.config(36, 4) == 1
    hello = message(Op.INIT, 0, pack("<IIII48x", 7, 45, 0, 0))
    request = driver.rings[1].add([hello[:40], hello[40:]], [16, 64])
    driver.rings[0].add([message(Op.FORGET, 5, pack("<Q", 1))], [])
    driver.kick(1)
    assert [size for _, size in driver.rings[1].used_entries()] == [80]
    assert request.answer()[:16] == pack("<IiQ", 80, 0, UNIQUE)
    assert [size for _, size in driver.rings[0].used_entries()] == [0]


bodies = st.lists(
    st.one_of(
        st.integers(0, 6).map(lambda number: pack("<Q", number)),
        st.sampled_from([b"file\0", b"sub\0", b"..\0", b"x\0", b"up\0", b"a/b\0"]),
        st.sampled_from([0, 1, 2, 0o100, 0o100644, 0o40755, (1 << 32) - 1]).map(
            lambda number: pack("<I", number)
        ),
        st.sampled_from([1 << 63, (1 << 64) - 1]).map(lambda number: pack("<Q", number)),
        st.just(bytes(8)),
        st.binary(max_size=9),
    ),
    max_size=12,
).map(b"".join)
requests = st.tuples(
    st.one_of(st.sampled_from(list(Op)), st.integers(0, 60)), st.integers(0, 6), bodies
)


@pytest.fixture(scope="module")
def abused_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for all examples, with a secret beside it."""
    place = tmp_path_factory.mktemp("abused")
    (place / "secret").write_text("not shared")
    (place / "tree/sub").mkdir(parents=True)
    return place / "tree"


def survive(tree: Path, script: list[tuple[int, int, bytes]]) -> None:
    """Let a server answer any requests; it works afterwards, and nothing has left the tree."""
    if not (tree / "up").is_symlink():
        (tree / "up").symlink_to("../secret")
    if not (tree / "file").exists():
        (tree / "file").write_text("content")
    directory = SharedDirectory(tree, max_handles=8)
    server = FuseServer(directory, max_open=MAX_OPEN, max_nodes=MAX_NODES)
    client = FuseClient(server.handle)
    client.start()
    for op, node, body in script:
        answer = server.handle(message(op, node, body))
        assert len(answer) <= server.max_message
        if op not in {Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT}:
            assert int.from_bytes(answer[:4], "little") == len(answer)
    client.start()
    assert b"." in client.names(client.open("", op=Op.OPENDIR))
    server.reset()
    assert not directory._num_nodes
    directory.close()
    assert (tree.parent / "secret").read_text() == "not shared"


@given(script=st.lists(requests, max_size=12))
def test_server_is_total(abused_tree: Path, script: list[tuple[int, int, bytes]]) -> None:
    """Any types and fields: every request has a reply."""
    survive(abused_tree, script)


@pytest.mark.slow
def test_server_is_total_for_long(abused_tree: Path, seed: int) -> None:
    """This is the same a million times."""
    for each in sequences(requests, seed):
        survive(abused_tree, each)
