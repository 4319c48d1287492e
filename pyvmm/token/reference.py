"""Reference values: the platform and the realm that a verifier expects.

A file is JSON, described in docs/reference-values.schema.json; byte strings are hexadecimal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from pyvmm.arch import strict_json
from pyvmm.arch.errors import UserError
from pyvmm.arch.strict_json import Json
from pyvmm.arch.user_file import read_file
from pyvmm.token.claims import HASH_SIZES, NUM_REMS, RPV_SIZE
from pyvmm.token.keys import load_public_key

VERSION: Final = 1
_MAX_FILE: Final = 4 << 20
_DIGEST: Final = tuple(HASH_SIZES.values())


@dataclass(frozen=True, slots=True)
class ComponentValues:
    """A permitted software component; without a type, it matches components of any type."""

    measurement: bytes
    signer_id: bytes
    sw_type: str | None = None


@dataclass(frozen=True, slots=True)
class PlatformValues:
    """The expected platform; values that are not given are not checked."""

    implementation_id: bytes | None = None
    instance_id: bytes | None = None
    config: bytes | None = None
    components: tuple[ComponentValues, ...] = ()
    cpak: bytes | None = None  # SEC1 point


@dataclass(frozen=True, slots=True)
class RealmValues:
    """The expected realm; values that are not given are not checked."""

    rim: bytes | None = None
    rems: tuple[bytes | None, ...] = (None,) * NUM_REMS
    rpv: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """The values against which a token is appraised."""

    platform: PlatformValues = field(default_factory=PlatformValues)
    realm: RealmValues = field(default_factory=RealmValues)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            UserError: it is not a reference file.
        """
        data = read_file(path, "reference file", _MAX_FILE, takes_pipe=True)
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """Read JSON.

        Raises:
            UserError: it does not fit the schema.
        """
        try:
            root = strict_json.loads(data)
        except ValueError as error:
            raise UserError(f"{source} is not JSON: {error}") from None
        members = _Members(root, source, {"version", "platform", "realm"})
        version = members.values.get("version")
        if version != VERSION or isinstance(version, bool):
            raise UserError(f"{source}: version is not {VERSION}")
        return cls(
            _platform(_Members(members.values.get("platform", {}), f"{source}: platform")),
            _realm(_Members(members.values.get("realm", {}), f"{source}: realm")),
        )


class _Members:
    """A JSON object whose members are read one by one; unknown members are errors."""

    def __init__(self, value: Json, where: str, known: set[str] | None = None) -> None:
        if not isinstance(value, dict):
            raise UserError(f"{where} is not a JSON object")
        self.values: Mapping[str, Json] = value
        self.where = where
        if known is not None:
            self.only(known)

    def only(self, known: set[str]) -> None:
        """Reject unknown members: a misspelt one would check nothing."""
        unknown = sorted(self.values.keys() - known)
        if unknown:
            raise UserError(f"{self.where}: unknown member {unknown[0]!r}")

    def octets(self, name: str, sizes: tuple[int, ...] = ()) -> bytes | None:
        """Return a byte string of one of some sizes, or None if it is absent."""
        return self._hex(self.values.get(name), f"{self.where}: {name}", sizes)

    def rems(self, name: str) -> tuple[bytes | None, ...]:
        """Return four byte strings, some of which may be null."""
        values = self.values.get(name)
        if values is None:
            return (None,) * NUM_REMS
        if not isinstance(values, list) or len(values) != NUM_REMS:
            raise UserError(f"{self.where}: {name} is not an array of {NUM_REMS} values")
        return tuple(
            self._hex(value, f"{self.where}: {name}[{index}]", _DIGEST)
            for index, value in enumerate(values)
        )

    @staticmethod
    def _hex(value: Json, where: str, sizes: tuple[int, ...]) -> bytes | None:
        if value is None:
            return None
        try:
            data = bytes.fromhex(value) if isinstance(value, str) else None
        except ValueError:
            data = None
        if not data or (sizes and len(data) not in sizes):
            size = f"{' or '.join(map(str, sizes))} " if sizes else ""
            raise UserError(f"{where} is not {size}bytes in hexadecimal")
        return data


def _platform(members: _Members) -> PlatformValues:
    members.only({"implementation-id", "instance-id", "config", "sw-components", "cpak"})
    cpak = members.values.get("cpak")
    if not isinstance(cpak, str | None):
        raise UserError(f"{members.where}: cpak is not a public key in PEM")
    components = members.values.get("sw-components", [])
    if not isinstance(components, list):
        raise UserError(f"{members.where}: sw-components is not an array")
    return PlatformValues(
        members.octets("implementation-id", (32,)),
        members.octets("instance-id", (33,)),
        members.octets("config"),
        tuple(
            _component(_Members(value, f"{members.where}: sw-components[{index}]"))
            for index, value in enumerate(components)
        ),
        load_public_key(cpak.encode(), f"{members.where}: cpak") if cpak is not None else None,
    )


def _component(members: _Members) -> ComponentValues:
    members.only({"measurement-type", "measurement-value", "signer-id", "version"})
    measurement = members.octets("measurement-value", _DIGEST)
    signer_id = members.octets("signer-id", _DIGEST)
    sw_type = members.values.get("measurement-type")
    if measurement is None or signer_id is None:
        raise UserError(f"{members.where}: measurement-value and signer-id are required")
    if not isinstance(sw_type, str | None):
        raise UserError(f"{members.where}: measurement-type is not text")
    return ComponentValues(measurement, signer_id, sw_type)


def _realm(members: _Members) -> RealmValues:
    members.only({"rim", "rems", "rpv"})
    return RealmValues(
        members.octets("rim", _DIGEST), members.rems("rems"), members.octets("rpv", (RPV_SIZE,))
    )
