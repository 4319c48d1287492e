"""A realm gets a secret from a key broker, through a host that reads along."""

import hashlib
import json
import socket
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pyvmm.vm import guests
from pyvmm.vm.images.debian import Image
from tests.boot.command import call, pyvmm, sbin
from tests.cli.instance import running

pytestmark = pytest.mark.boot

PORT = 80
SECRET = bytes(range(256)) * 100  # more than one packet
#: Requests secrets; the host sees only a hash of what comes.
PROGRAM = """#!/bin/busybox sh
for name in default/key/signing default/key/none other/key/signing; do
    /agent secret vsock:2:80 $name >/tmp/secret && busybox sha256sum </tmp/secret
done
"""


class Relay:
    """What the host puts between the guest's vsock and the broker: it keeps all bytes."""

    def __init__(self, path: Path, port: int) -> None:
        self.seen = b""
        self._port = port
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._start(self._accept)

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is shut down
            while True:
                self._start(partial(self._serve, self._listener.accept()[0]))

    def _serve(self, guest: socket.socket) -> None:
        with guest, socket.create_connection(("127.0.0.1", self._port)) as broker:
            back = threading.Thread(target=self._copy, args=(broker, guest))
            back.start()
            self._copy(guest, broker)
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Stop accepting, and wait for the end of all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()


@dataclass(frozen=True, slots=True)
class Stage:
    """The realm's files, and the broker's."""

    options: list[str | Path]
    library: Path
    directory: Path


@pytest.fixture(scope="module")
def stage(debian: Image, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Pack the program, and let its realm have one repository but not the other."""
    directory = tmp_path_factory.mktemp("kbs")
    tree = directory / "tree"
    (tree / "bin").mkdir(parents=True)
    dump = f"dump /usr/bin/busybox {tree}/bin/busybox"
    assert call(sbin("debugfs"), "-R", dump, debian.rootfs).code == 0
    (tree / "agent").write_bytes(guests.agent())
    (tree / "main").write_text(PROGRAM)
    for name in ("bin/busybox", "agent", "main"):
        (tree / name).chmod(0o755)
    packed = directory / "app.img"
    build = ("image", "build", "rootfs", "--from-dir", tree, "--init", "/main")
    made = pyvmm(*build, "--initrd", debian.initrd, "-o", packed)
    assert made.code == 0, made.errors
    options: list[str | Path] = ["--realm", "-k", debian.kernel, "-i", packed]
    options += ["--vsock", f"auto,uds={directory}/v"]
    return Stage(options, make_library(directory / "library", options), directory)


def make_library(root: Path, options: list[str | Path]) -> Path:
    """Make the broker's directory: the realm of these options may have the repository default."""
    reference = json.loads(pyvmm("endorse", *options).output)
    for repository in ("default", "other"):
        secret = root / "resource" / repository / "key/signing"
        secret.parent.mkdir(parents=True)
        secret.write_bytes(SECRET)
        rule = root / "policy" / repository / "realm.json"
        rule.parent.mkdir(parents=True)
        rule.write_text(json.dumps(reference))
        reference["realm"]["rim"] = "00" * 32
    (root / "resource").chmod(0o700)
    return root


@contextmanager
def relayed(stage: Stage) -> Iterator[Relay]:
    """Run a broker, and a host that reads along."""
    path = stage.directory / f"v_{PORT}"
    with running("kbs", str(stage.library)) as process:
        assert process.stdout is not None
        relay = Relay(path, int(process.stdout.readline().rpartition(b":")[2]))
        try:
            yield relay
        finally:
            relay.close()
            path.unlink()


def test_only_the_realm_sees_the_secret(stage: Stage) -> None:
    """It arrives whole; nothing that the host carries contains it; other secrets are refused."""
    with relayed(stage) as relay:
        ended = pyvmm("run", *stage.options)
    assert hashlib.sha256(SECRET).hexdigest() in ended.output
    assert "default/key/none: no secret 'default/key/none': check the names" in ended.output
    assert "other/key/signing: this realm may not have secrets of 'other'" in ended.output
    assert relay.seen.count(b"ECDH-ES") >= 1
    assert b'"ciphertext":"' in relay.seen
    for start in range(3):  # base64 has three ways to begin
        part = SECRET[start : start + 48]
        assert part not in relay.seen
        assert b64encode(part) not in relay.seen
        assert urlsafe_b64encode(part) not in relay.seen


def test_debug_realm_gets_nothing(stage: Stage) -> None:
    """Its host could read the secret in it; the option changes its measurement."""
    with relayed(stage):
        ended = pyvmm("run", *stage.options, "--realm-debug")
    assert (
        "attest: default/realm.json: realm.cca-realm-initial-measurement: expected" in ended.output
    )
    assert hashlib.sha256(SECRET).hexdigest() not in ended.output
