"""The secrets of a key broker, and who may have them: a directory.

resource/REPOSITORY/TYPE/TAG    a secret
policy/REPOSITORY/*.json        reference values: a realm that meets any of these files may have
                                all secrets of the repository
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import read_file
from pyvmm.token.reference import ReferenceValues

MAX_SECRET: Final = 64 << 10
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True)
class Rule:
    """A reference file: which realm may have the secrets of a repository."""

    repository: str
    source: str  # for messages
    values: ReferenceValues


@dataclass(frozen=True, slots=True)
class Library:
    """The secrets, read when they are requested, and the rules, read once."""

    rules: tuple[Rule, ...]
    _resources: Path

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read the rules of a directory.

        Raises:
            UserError: something in it is missing, unreadable or would protect nothing.
        """
        resources, policies = root / "resource", root / "policy"
        for directory in (resources, policies):
            if not directory.is_dir():
                raise UserError(f"{directory} is not a directory: create it (pyvmm kbs --help)")
        if resources.stat().st_mode & _OTHERS:
            raise UserError(f"other users may enter {resources}: chmod go= {resources}")
        rules = tuple(_rule(path) for path in sorted(policies.glob("*/*.json")))
        known = {rule.repository for rule in rules}
        for path in sorted(resources.iterdir()):
            if path.name not in known:
                wanted = policies / path.name / "NAME.json"
                raise UserError(f"no realm may have {path}: write reference values to {wanted}")
        return cls(rules, resources)

    def read(self, repository: str, kind: str, tag: str) -> bytes | None:
        """Return a secret, or None if there is none of that name.

        Raises:
            UserError: it cannot be read.
        """
        names = (repository, kind, tag)
        if not all(map(_NAME.fullmatch, names)):
            return None
        path = self._resources.joinpath(*names)
        return read_file(path, "secret", MAX_SECRET) if path.is_file() else None


def _rule(path: Path) -> Rule:
    values = ReferenceValues.load(path)
    if values.realm.rim is None:
        raise UserError(f"{path} has no RIM, so any realm would get the secrets: add realm.rim")
    return Rule(path.parent.name, f"{path.parent.name}/{path.name}", values)
