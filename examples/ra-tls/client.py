"""Fetch a file from a realm after verifying the realm.

    python client.py HOST:PORT REFERENCE.json [PATH]

REFERENCE.json is the output of `pyvmm endorse --realm ...`.
"""

import hashlib
import secrets
import socket
import ssl
import sys
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvmm.arch.errors import UserError
from pyvmm.token.appraise import Policy
from pyvmm.token.reference import ReferenceValues
from pyvmm.token.report import Report
from pyvmm.token.trust import TrustStore, anchor_of
from pyvmm.token.verify import verify

#: The certificate's extension with the token, as in Islet.
TOKEN_OID = x509.ObjectIdentifier("1.3.3.3.7")


class NotVerified(Exception):
    """The server is not the expected realm; the text says why, one line per finding."""


def check(certificate: bytes, nonce: bytes, reference: ReferenceValues) -> Report:
    """Check that a server's certificate was made for this nonce by the expected realm.

    Raises:
        NotVerified: it was not.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        token = parsed.extensions.get_extension_for_oid(TOKEN_OID).value.public_bytes()
        key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except x509.ExtensionNotFound:
        raise NotVerified("its certificate has no token") from None
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
        raise NotVerified("its certificate is malformed") from None
    anchor = anchor_of(reference)
    trust = TrustStore((anchor,) if anchor is not None else ())
    challenge = hashlib.sha512(nonce + key).digest()
    report = verify(token, trust, Policy(challenge=challenge, reference=reference))
    if report.exit_code != 0:
        raise NotVerified("\n".join(map(str, report.findings)))
    return report


def connect(host: str, port: int, reference: ReferenceValues) -> ssl.SSLSocket:
    """Return a connection to a verified realm.

    In TLS 1.3 the server proves that it has the certificate's private key.  The certificate's
    signature does not matter, because the token in it vouches for the key.

    Raises:
        NotVerified: it is not the expected realm; nothing was sent to it.
    """
    nonce = secrets.token_bytes(32)
    name = f"{nonce[:16].hex()}.{nonce[16:].hex()}"  # the limit for a label is 63 characters
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = context.wrap_socket(socket.create_connection((host, port)), server_hostname=name)
    try:
        check(connection.getpeercert(binary_form=True) or b"", nonce, reference)
    except BaseException:
        connection.close()
        raise
    return connection


def get(host: str, port: int, path: str, reference: ReferenceValues) -> bytes:
    """Return a file from a verified realm."""
    with connect(host, port, reference) as connection:
        connection.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part
    return answer.partition(b"\r\n\r\n")[2]


def main(address: str, reference: str, path: str = "secret.txt") -> int:
    """Fetch a file and print it, or print an error."""
    host, _, port = address.rpartition(":")
    try:
        content = get(host, int(port), path, ReferenceValues.load(Path(reference)))
    except (NotVerified, UserError, OSError) as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 1
    print(f"verified: {content.decode()}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
