"""The state that survives power-off: keys, identity, lifecycle and counters, in one file.

Writers hold a lock and replace the whole file, so that a process killed at any time leaves either
the old file or the new one.  A damaged file is rejected, never repaired.
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

#: Non-volatile counters: the lowest version still accepted.
COUNTERS: Final = ("firmware", "cm-bundle", "dm-bundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Otp:
    """The one-time programmable memory and the counters; fields are empty until provisioned."""

    lifecycle: LifecycleState = LifecycleState.ASSEMBLY_AND_TEST
    huk: bytes = field(default=b"", repr=False)
    guk: bytes = field(default=b"", repr=False)
    boot_hash: bytes = b""  # of the immutable boot code, to which the keys are bound
    implementation_id: bytes = b""
    cm_rotpk: bytes = b""  # hash of the chip maker's key
    dm_rotpk: bytes = b""  # hash of the device maker's key
    config: bytes = b""
    verification_service: str = ""
    counters: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def advanced(self, counter: str, value: int) -> Mapping[str, int]:
        """Return the counters after advancing one.

        Raises: PsaError(INVALID_ARGUMENT) if the counter is unknown, (NOT_PERMITTED) if it would
        decrease.
        """
        if counter not in self.counters:
            raise PsaError(
                PsaStatus.INVALID_ARGUMENT, f"unknown counter {counter}: give {', '.join(COUNTERS)}"
            )
        now = self.counters[counter]
        if value < now:
            raise PsaError(
                PsaStatus.NOT_PERMITTED, f"counter {counter} is at {now} and cannot decrease"
            )
        return {**self.counters, counter: value}


def encode_otp(otp: Otp) -> bytes:
    """Encode the content as a file: a hash that detects damage, then the content."""
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
    """Decode the content of a file.

    Raises: Malformed if it is damaged.
    """
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        raise Malformed("otp", "damaged")
    otp = _content(decode(body, path="otp"))
    if encode_otp(otp) != data:  # for example, True instead of 1
        raise Malformed("otp", "not in the form that this HES writes")
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
            raise Malformed("otp", "unknown version")


def _sized(value: bytes) -> bytes:
    if len(value) not in {0, KEY_SIZE}:
        raise Malformed("otp", f"a value has {len(value)} bytes")
    return value


def _counters(counters: list[Value]) -> Mapping[str, int]:
    values = [value for value in counters if type(value) is int and 0 <= value <= MAX_COUNTER]
    if len(values) != len(counters) or len(values) != len(COUNTERS):
        raise Malformed("otp", "a counter is missing or invalid")
    return dict(zip(COUNTERS, values, strict=True))


class Store:
    """The file and its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / OTP_FILE

    def load(self) -> Otp | None:
        """Return the content; None if there is no file yet.

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
                f"{self._path} is damaged: restore a copy, or remove it to lose the identity",
            ) from None

    def update(self, change: Callable[[Otp | None], Otp]) -> Otp:
        """Change and return the content; an exception from ``change`` leaves it as it is.

        Raises: PsaError(BAD_STATE) if it cannot be read or written.
        """
        with self._locked():
            old = self.load()
            new = change(old)
            if new != old:
                self._write(OTP_FILE, encode_otp(new), mode=0o600)
            return new

    def publish(self, name: str, data: bytes) -> None:
        """Write a public file beside it.

        Raises: PsaError(BAD_STATE) if it cannot be written.
        """
        with self._locked():
            self._write(name, data, mode=0o644)

    def withdraw(self, name: str) -> None:
        """Remove a public file if it exists.

        Raises: PsaError(BAD_STATE) if it cannot be removed.
        """
        path = self.directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise PsaError(PsaStatus.BAD_STATE, f"{path}: {error.strerror}") from None

    def _write(self, name: str, data: bytes, mode: int) -> None:
        """Replace a file durably and as a whole; on failure, the old file remains."""
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
