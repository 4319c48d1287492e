"""What executes the guest's code; the guest sees no difference but speed."""

from enum import StrEnum


class Engine(StrEnum):
    """An engine of the core."""

    INTERP = "interp"  # the interpreter alone
    JIT = "jit"  # hot code is translated to the host's instructions
    CHECK = "check"  # so it is, and compared with the interpreter whenever it runs
