"""The names of instances."""

import re
from typing import Final

from pyvmm.arch.errors import UserError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_name(name: str) -> str:
    """Return the name if an instance may have it.

    Raises:
        UserError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: give at most 64 letters, digits, and _ . - but no - first")
    return name
