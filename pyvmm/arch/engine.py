"""What executes the guest's code; the guest sees no difference but speed."""

import os
from enum import StrEnum

from pyvmm.arch.errors import UserError


class Engine(StrEnum):
    """An engine of the core."""

    INTERP = "interp"  # the interpreter alone
    JIT = "jit"  # hot code is translated to the host's instructions
    CHECK = "check"  # so it is, and compared with the interpreter whenever it runs


class NoGeneratedCodeError(UserError):
    """The host forbids code that is generated at run time."""


#: Hosts whose instructions the core can translate to (core/host_*.c.inc), as uname(2) calls them.
TRANSLATING_HOSTS = {"aarch64", "x86_64"}
DEFAULT_ENGINE = Engine.JIT if os.uname().machine in TRANSLATING_HOSTS else Engine.INTERP
