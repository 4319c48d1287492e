"""Finds attacks and runs them."""

import pkgutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.arch.pas import GranuleProtectionFault
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.lab import attacks
from pyvmm.lab.attack import Attack, Break
from pyvmm.lab.files import load_module
from pyvmm.lab.host import Host, HostFailure, Step
from pyvmm.lab.owner import Owner
from pyvmm.lab.realm import Realm
from pyvmm.lab.witness import Proof
from pyvmm.lab.world import World
from pyvmm.platform import boot_log
from pyvmm.root_of_trust import RootOfTrust
from pyvmm.token.reference import ComponentValues, PlatformValues
from pyvmm.token.trust import TrustStore, hes_anchors

_SUFFIX: Final = ".py"


class Verdict(StrEnum):
    """How an attack ended."""

    DEFENDED = "defended"
    SUCCEEDED = "succeeded as expected"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True)
class Outcome:
    """The result of one attack."""

    attack: Attack
    broken: tuple[Break, ...]
    steps: tuple[Step, ...]
    proof: Proof
    succeeded: bool

    @property
    def should_succeed(self) -> bool:
        """Whether the attack is expected to succeed on this platform."""
        return self.attack.succeeds or bool(set(self.attack.breaks) & set(self.broken))

    @property
    def verdict(self) -> Verdict:
        """Compare the result with what was expected."""
        if self.succeeded != self.should_succeed:
            return Verdict.UNEXPECTED
        return Verdict.SUCCEEDED if self.succeeded else Verdict.DEFENDED


# --- finding ----------------------------------------------------------------------------------


def all_attacks() -> dict[str, Attack]:
    """Return the lab's attacks by name."""
    names = (module.name for module in pkgutil.iter_modules(attacks.__path__))
    found = [attack_in(import_module(f"{attacks.__name__}.{name}"), name) for name in names]
    return {each.name: each for each in found}


def find(name: str) -> Attack:
    """Return the attack of a name, or in a file.

    Raises:
        UserError: there is none.
    """
    if name.endswith(_SUFFIX) or "/" in name:
        return _load(Path(name))
    known = all_attacks()
    if name not in known:
        raise UserError(f"no attack {name!r}: `pyvmm lab list` shows all; a file ends in .py")
    return known[name]


def _load(path: Path) -> Attack:
    """Return the attack in a user's file, which is trusted like any program that the user runs."""
    module = load_module(path, "`pyvmm lab new NAME` writes one")
    return replace(attack_in(module, str(path)), path=str(path))


def attack_in(module: object, where: str) -> Attack:
    """Return the attack that a module defines.

    Raises: UserError if that is not exactly one.
    """
    found = [each for each in vars(module).values() if isinstance(each, Attack)]
    if len(found) != 1:
        raise UserError(f"{where}: {len(found)} functions have @attack: one must")
    return found[0]


# --- running ----------------------------------------------------------------------------------


class Lab:
    """Runs attacks, each on a new machine; all share a root of trust of the lab's own."""

    def __init__(self, directory: Path, revision: int = VERSION_1_0) -> None:
        """``directory`` is for the state of the root of trust; ``revision``, that of RMI."""
        self._directory = directory
        self._revision = revision
        self._owner: Owner | None = None
        self._stranger = Owner(TrustStore(), PlatformValues(), b"")

    def run(self, attack: Attack, broken: Sequence[Break] = ()) -> Outcome:
        """Run an attack on a platform without some checks."""
        if not attack.needs_token:
            return _run(attack, broken, World(self._stranger, broken, None, self._revision))
        owner = self._owner = self._owner or self._new_owner()
        with RootOfTrust(self._directory) as root_of_trust:
            return _run(attack, broken, World(owner, broken, root_of_trust, self._revision))

    def _new_owner(self) -> Owner:
        """Prepare what a realm's owner knows: the good platform's values, the image's RIM."""
        with RootOfTrust(self._directory) as root_of_trust:
            log = boot_log(root_of_trust)
        components = tuple(
            ComponentValues(bytes.fromhex(each.value), bytes.fromhex(each.signer_id), each.sw_type)
            for each in log
        )
        dry = World(self._stranger, revision=self._revision)
        rim = dry.witness.rim(Realm.build(dry.host).rd)
        return Owner(hes_anchors(self._directory), PlatformValues(components=components), rim)


def _run(attack: Attack, broken: Sequence[Break], world: World) -> Outcome:
    reached = _perform(attack, world.host) and world.witness.confirms(world.host.claims)
    proof = world.witness.proof()
    succeeded = reached or not proof.is_clean
    return Outcome(attack, tuple(broken), tuple(world.host.steps), proof, succeeded)


def _perform(attack: Attack, host: Host) -> bool:
    """Perform an attack, up to the first refusal that it does not handle."""
    try:
        return attack.steps(host)
    except (HostFailure, GranuleProtectionFault) as failure:
        host.steps.append(Step("the attack ends here", str(failure), is_refused=True))
        return False
    except Exception as error:
        if not attack.path:
            raise
        raise UserError(f"{attack.path}: {type(error).__name__}: {error}") from error


@contextmanager
def lab(revision: int = VERSION_1_0) -> Iterator[Lab]:
    """Open the lab, with a root of trust that is thrown away and a host of a revision of RMI."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-lab-") as directory:
        yield Lab(Path(directory) / "hes", revision)
