"""The names of instances."""

import re
from typing import Final

from pyvmm.arch.errors import UserError

#: The name of the instance of a process whose user gave none.
DEFAULT_NAME: Final = "guest-{pid}"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def check_name(name: str) -> str:
    """Return the name if it is valid.

    Raises:
        UserError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: give up to 64 letters, digits, _ . - but no . or - first")
    return name
