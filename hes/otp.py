"""What survives power-off: keys, identity, lifecycle and counters, as one file.

Writers hold a lock and replace the file as a whole, so that whoever is killed, and whenever, the
file is the one before or the one after.  Nobody mends a damaged file: it is refused.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hes.errors import PsaError
from hes.keys import KEY_SIZE
from pyvmm.arch.psa import PsaStatus
from pyvmm.token.cbor import Malformed, Value, decode, encode
from pyvmm.token.claims import LifecycleState

OTP_FILE: Final = "otp"
LOCK_FILE: Final = "otp.lock"
_VERSION: Final = 1
MAX_COUNTER: Final = (1 << 32) - 1

#: Non-volatile counters: the lowest version that is still accepted.
COUNTERS: Final = ("firmware", "cm-bundle", "dm-bundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Otp:
    """The one-time programmable memory and the counters; empty where not provisioned."""

    lifecycle: LifecycleState = LifecycleState.ASSEMBLY_AND_TEST
    huk: bytes = field(default=b"", repr=False)
    guk: bytes = field(default=b"", repr=False)
    boot_hash: bytes = b""  # of the immutable boot code that the keys are bound to
    implementation_id: bytes = b""
    cm_rotpk: bytes = b""  # hash of the chip maker's key
    dm_rotpk: bytes = b""  # hash of the device maker's key
    config: bytes = b""
    verification_service: str = ""
    counters: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def advanced(self, counter: str, value: int) -> Mapping[str, int]:
        """Return the counters with one advanced.

        Raises: PsaError(INVALID_ARGUMENT) if there is no such counter, (NOT_PERMITTED) if it would
        go back.
        """
        if counter not in self.counters:
            raise PsaError(
                PsaStatus.INVALID_ARGUMENT, f"no counter {counter}: give {', '.join(COUNTERS)}"
            )
        now = self.counters[counter]
        if value < now:
            raise PsaError(
                PsaStatus.NOT_PERMITTED, f"the counter {counter} is at {now} and never goes back"
            )
        return {**self.counters, counter: value}


def encode_otp(otp: Otp) -> bytes:
    """Return the file of a content: a hash against accidents, and the content."""
    counters: list[Value] = [otp.counters[name] for name in COUNTERS]
    fields: list[Value] = [
        _VERSION,
        otp.lifecycle.value,
        otp.huk,
        otp.guk,
        otp.boot_hash,
        otp.implementation_id,
        otp.cm_rotpk,
        otp.dm_rotpk,
        otp.config,
        otp.verification_service,
        counters,
    ]
    body = encode(fields)
    return hashlib.sha256(body).digest() + body


def decode_otp(data: bytes) -> Otp:
    """Return the content of a file.

    Raises: Malformed if it is damaged.
    """
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        raise Malformed("otp", "damaged")
    otp = _content(decode(body, path="otp"))
    if encode_otp(otp) != data:  # True for 1, say
        raise Malformed("otp", "not as this HES writes it")
    return otp


def _content(fields: Value) -> Otp:
    match fields:
        case [
            1,
            int(lifecycle),
            bytes(huk),
            bytes(guk),
            bytes(boot_hash),
            bytes(implementation_id),
            bytes(cm_rotpk),
            bytes(dm_rotpk),
            bytes(config),
            str(verification_service),
            list(counters),
        ] if lifecycle in list(LifecycleState):
            return Otp(
                lifecycle=LifecycleState(lifecycle),
                huk=_sized(huk),
                guk=_sized(guk),
                boot_hash=_sized(boot_hash),
                implementation_id=_sized(implementation_id),
                cm_rotpk=_sized(cm_rotpk),
                dm_rotpk=_sized(dm_rotpk),
                config=config,
                verification_service=verification_service,
                counters=_counters(counters),
            )
        case _:
            raise Malformed("otp", "not of a version that this HES knows")


def _sized(value: bytes) -> bytes:
    if len(value) not in {0, KEY_SIZE}:
        raise Malformed("otp", f"a value of {len(value)} bytes")
    return value


def _counters(counters: list[Value]) -> Mapping[str, int]:
    values = [value for value in counters if type(value) is int and 0 <= value <= MAX_COUNTER]
    if len(values) != len(counters) or len(values) != len(COUNTERS):
        raise Malformed("otp", "a counter is missing or of no use")
    return dict(zip(COUNTERS, values, strict=True))


class Store:
    """The file in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / OTP_FILE

    def load(self) -> Otp | None:
        """Return the content; None if nothing was ever written.

        Raises: PsaError(BAD_STATE) if it cannot be read or is damaged.
        """
        try:
            return decode_otp(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PsaError(PsaStatus.BAD_STATE, f"{self._path}: {error.strerror}") from None
        except Malformed:
            raise PsaError(
                PsaStatus.BAD_STATE,
                f"{self._path} is damaged: put back a copy, or remove it and with it the identity",
            ) from None

    def update(self, change: Callable[[Otp | None], Otp]) -> Otp:
        """Change the content, and return it as it is then; what ``change`` raises changes nothing.

        Raises: PsaError(BAD_STATE) if it cannot be read or written.
        """
        with self._locked():
            old = self.load()
            new = change(old)
            if new != old:
                self._write(OTP_FILE, encode_otp(new), mode=0o600)
            return new

    def publish(self, name: str, data: bytes) -> None:
        """Write a file beside it that is no secret.

        Raises: PsaError(BAD_STATE) if it cannot be written.
        """
        with self._locked():
            self._write(name, data, mode=0o644)

    def withdraw(self, name: str) -> None:
        """Remove such a file, if it is there.

        Raises: PsaError(BAD_STATE) if it cannot be removed.
        """
        path = self.directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise PsaError(PsaStatus.BAD_STATE, f"{path}: {error.strerror}") from None

    def _write(self, name: str, data: bytes, mode: int) -> None:
        """Replace a file as a whole and for good; if that fails, the old one is still there."""
        path = self.directory / name
        try:
            new = path.with_name(f"{name}.new")
            with open(new, "wb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            self._sync()
        except OSError as error:
            raise PsaError(PsaStatus.BAD_STATE, f"{path}: {error.strerror}") from None

    def _sync(self) -> None:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = os.open(self.directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PsaError(
                PsaStatus.BAD_STATE, f"{self.directory / LOCK_FILE}: {error.strerror}"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
