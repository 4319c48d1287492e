"""Cases of the test vectors, and ways to spoil a token."""

from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.token.cbor import Key, Value
from pyvmm.token.claims import PlatformKey
from pyvmm.token.generations import Generation
from tests.token.draft import CHALLENGE, Draft, Part

G0, G1, G1B, G2, G2B = Generation
ALL = (G0, G1, G1B, G2, G2B)
WITH_COSE_KEY = (G1, G1B, G2, G2B)

PARTS = "platform.cca-platform-sw-components"

CPAK = ("--cpak", "cpak.pem")
#: All expected values of the valid token.
EXPECTED = (*CPAK, "--challenge", CHALLENGE.hex(), "--reference", "reference.json")

Spoil = Callable[[Draft], None]


@dataclass(frozen=True)
class Case:
    """A change to a valid token of some generations, and what a verifier must report.

    The expected report is written by hand: the exit code, and the paths of all findings.
    """

    name: str
    generations: tuple[Generation, ...]
    spoil: Spoil
    exit_code: int = 0
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = EXPECTED


def nothing(_draft: Draft) -> None:
    """Leave it as it is."""


def platform(**changes: object) -> Spoil:
    """Change how the platform token is made."""
    return lambda draft: _change(draft.platform, changes)


def realm(**changes: object) -> Spoil:
    """Change how the realm token is made."""
    return lambda draft: _change(draft.realm, changes)


def whole(**changes: object) -> Spoil:
    """Change how the token is put together."""
    return lambda draft: _change(draft, changes)


def platform_claim(key: Key, value: Value) -> Spoil:
    """Set a claim of the platform token."""
    return lambda draft: _set(draft, draft.platform, key, value)


def realm_claim(key: Key, value: Value) -> Spoil:
    """Set a claim of the realm token."""
    return lambda draft: _set(draft, draft.realm, key, value)


def no_platform_claim(key: int) -> Spoil:
    """Remove a claim of the platform token."""
    return lambda draft: draft.platform.claims.__delitem__(int(key))


def no_realm_claim(key: int) -> Spoil:
    """Remove a claim of the realm token."""
    return lambda draft: draft.realm.claims.__delitem__(int(key))


def component(**members: Value) -> Spoil:
    """Change members of the second software component; None removes one."""
    keys = {"type": 1, "measurement": 2, "signer": 5, "algorithm": 6, "live": 7, "counter": 8}

    def spoil(draft: Draft) -> None:
        components = draft.platform.claims[int(PlatformKey.SW_COMPONENTS)]
        assert isinstance(components, list)
        assert isinstance(components[1], dict)
        changed = components[1] | {keys[name]: value for name, value in members.items()}
        components[1] = {k: v for k, v in changed.items() if v is not None}

    return spoil


def longer_head(data: bytes) -> bytes:
    """Write the number of a map's members with one byte more than necessary."""
    assert data[0] >> 5 == 5
    return bytes([0xB8, data[0] & 31]) + data[1:]


def both(*spoils: Spoil) -> Spoil:
    """Do one after the other."""

    def spoil(draft: Draft) -> None:
        for one in spoils:
            one(draft)

    return spoil


def _change(target: Part | Draft, changes: dict[str, object]) -> None:
    for name, value in changes.items():
        assert hasattr(target, name), name
        setattr(target, name, value)


def _set(draft: Draft, part: Part, key: Key, value: Value) -> None:
    key = int(key) if isinstance(key, int) else key
    part.claims[key] = value
    if part is draft.platform and key == 10:
        draft.is_bound = False
