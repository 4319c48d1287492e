"""The RA-TLS example: the client talks only to a verified realm."""

import hashlib
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtensionOID

from pyvmm.arch.rsi import RsiFid
from tests.boot.command import Ended, call, pyvmm
from tests.boot.rsi_guest import DUMP, PAGE, answers, rsi_guest
from tests.boot.server import served_files

EXAMPLE = Path("examples/ra-tls")
TOKEN_OID = x509.ObjectIdentifier("1.3.3.3.7")
MAX_WORDS = 256
DEMO_PATIENCE = 900.0  # seconds; the first time, it fetches packages

Attest: TypeAlias = Callable[[bytes], bytes | None]


def client(port: int, reference: Path) -> Ended:
    """Run the example's client."""
    return call(sys.executable, EXAMPLE / "client.py", f"localhost:{port}", reference)


def program(challenge: bytes) -> bytes:
    """Return a realm's program that gets a token; every challenge gives another measurement."""
    words = [int.from_bytes(challenge[at : at + 8], "little") for at in range(0, 64, 8)]
    init = (RsiFid.RSI_ATTESTATION_TOKEN_INIT, *words)
    more = (RsiFid.RSI_ATTESTATION_TOKEN_CONTINUE, PAGE, 0, 4096)
    return rsi_guest(init, more, (DUMP, PAGE, MAX_WORDS))


@pytest.fixture
def attest(tmp_path: Path) -> Attest:
    """Return a function that gets a token from a genuine realm."""

    def token_for(challenge: bytes) -> bytes:
        kernel = tmp_path / "kernel"
        kernel.write_bytes(program(challenge))
        ended = pyvmm("run", "--realm", "-m", "64M", "-k", kernel)
        _, done, words = answers(ended.output)[:3]
        return b"".join(word.to_bytes(8, "little") for word in words)[: done[1]]

    return token_for


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """Return a reference that any realm on this platform satisfies."""
    path = tmp_path / "platform.json"
    path.write_text(pyvmm("endorse").output)
    return path


def certificate(key: ec.EllipticCurvePrivateKey, token: bytes | None) -> bytes:
    """Return a self-signed certificate and its key, with a token in it."""
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    if token is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(TOKEN_OID, token), False)
    signed = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return signed + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Impostor:
    """A TLS server; ``heard`` is what its client sent to it."""

    def __init__(self, attest: Attest) -> None:
        self._attest = attest
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.heard: bytes | None = None

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Make the certificate for the nonce in the server name."""
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        nonce = bytes.fromhex((name or "").replace(".", ""))
        challenge = hashlib.sha512(nonce + self._key.public_key().public_bytes(*form)).digest()
        connection.context = self._context(self._attest(challenge))

    def _context(self, token: bytes | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with NamedTemporaryFile() as file:
            file.write(certificate(self._key, token))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def _serve(self, listener: socket.socket) -> None:
        context = self._context(None)
        context.sni_callback = self._choose
        peer, _ = listener.accept()
        with context.wrap_socket(peer, server_side=True) as connection:
            self.heard = connection.recv(4096)

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Serve one connection; yield the port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            yield listener.getsockname()[1]
            thread.join()


def meet(attest: Attest, reference: Path) -> tuple[Ended, bytes | None]:
    """Connect the client to an impostor; return the client's output, and what it sent."""
    impostor = Impostor(attest)
    with impostor.serving() as port:
        ended = client(port, reference)
    return ended, impostor.heard


@pytest.mark.boot
@pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed")
def test_demo_gets_the_secret() -> None:
    """As a reader runs it: Debian's kernel and openssl in a realm, and a client that verifies."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    environment = {"PYVMM_BIN": str(Path(sys.executable).parent)}
    ended = call(EXAMPLE / "demo.sh", str(port), env=environment, patience=DEMO_PATIENCE)
    assert ended.output == "verified: A secret that only a verified realm reveals.\n"
    assert (ended.code, ended.errors) == (0, "")


def test_any_realm_that_is_expected_is_talked_to(attest: Attest, platform: Path) -> None:
    """This shows that the other tests fail for the intended reason."""
    ended, heard = meet(attest, platform)
    assert (ended.code, heard) == (0, b"GET /secret.txt HTTP/1.0\r\n\r\n"), ended.errors


def test_other_realm_hears_nothing(attest: Attest, tmp_path: Path) -> None:
    """Even if it attests to this connection, on a genuine platform."""
    reference = tmp_path / "reference.json"
    reference.write_text(pyvmm("endorse", "--realm").output)
    ended, heard = meet(attest, reference)
    assert (ended.code, heard, ended.output) == (1, b"", "")
    assert "not verified: realm.cca-realm-initial-measurement" in ended.errors


def test_token_of_another_connection_is_refused(attest: Attest, platform: Path) -> None:
    """It is genuine, but was made for another client."""
    token = attest(bytes(64))
    ended, heard = meet(lambda _: token, platform)
    assert (ended.code, heard) == (1, b"")
    assert "not verified: realm.cca-realm-challenge" in ended.errors


def test_certificate_without_a_token_is_refused(platform: Path) -> None:
    """Any other server has such a certificate."""
    ended, heard = meet(lambda _: None, platform)
    assert (ended.code, heard) == (1, b"")
    assert ended.errors == "not verified: its certificate has no token\n"


def test_certificate_that_is_malformed_is_refused(
    platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A well-known extension with invalid content."""
    oid = ExtensionOID.ISSUER_ALTERNATIVE_NAME
    monkeypatch.setattr(sys.modules[__name__], "TOKEN_OID", oid)
    ended, heard = meet(lambda _: b"\xff", platform)
    assert (ended.code, ended.output, heard) == (1, "", b"")
    assert ended.errors == "not verified: its certificate is malformed\n"


def test_server_without_tls_is_refused(tmp_path: Path, platform: Path) -> None:
    """In one line."""
    with served_files({}) as port:
        ended = client(port, platform)
    assert (ended.code, ended.errors.count("\n")) == (1, 1)
    assert client(port, tmp_path / "none.json").code == 1
