"""Commands, each declared once, on the function that implements it.

``@rmi_command(RmiFid.RMI_RTT_FOLD)`` makes a command from a function whose parameters, after the
RMM, are those of the command in the order of the specification; argument count, trace and
docs/rmm-abi.md follow from it.  A first parameter named ``pe`` gets the index of the calling PE.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from enum import IntEnum
from types import MethodType
from typing import Final, Generic, NamedTuple, TypeVar

from pyvmm.arch.islet import IsletRmiFid, IsletRsiFid
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import RmiFid, RmiStatus
from pyvmm.arch.rmi2 import Rmi2Fid
from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.arch.rsi import RsiFid
from pyvmm.arch.smccc import SmcccFid
from rmm.errors import RmiError
from rmm.rec import HostExit

#: The result of an RMI function: x1.. on success.
RmiOutputs = tuple[int, ...] | None
#: The result of an RSI or PSCI function: x0.., or an exit that the host has to handle first.
RealmReply = tuple[int, ...] | HostExit

R = TypeVar("R")

#: A function that implements a command; the parameters after the RMM (and the REC) differ.
Handler = Callable[..., R]  # type: ignore[explicit-any]


#: A function that performs a command several times.
SeriesHandler = Callable[..., int]  # type: ignore[explicit-any]


class Several(NamedTuple):
    """How to perform a command several times at once."""

    steps: tuple[int, ...]
    function: SeriesHandler


class Command(Generic[R]):
    """A command: its identifier, its parameters and its function."""

    __slots__ = ("doc", "fid", "function", "name", "num_args", "parameters", "several", "wants_pe")

    def __init__(self, fid: IntEnum, function: Handler[R], *, fixed: int) -> None:
        """Wrap ``function``, whose first ``fixed`` parameters do not belong to the command."""
        parameters = list(inspect.signature(function).parameters)[fixed:]
        self.fid = fid
        self.name = fid.name
        self.function = function
        self.wants_pe = parameters[:1] == ["pe"]
        self.parameters = tuple(parameters[self.wants_pe :])
        self.num_args = len(self.parameters)
        self.doc = inspect.getdoc(function) or ""
        self.several: Several | None = None

    def series(self, *steps: int) -> Callable[[SeriesHandler], SeriesHandler]:
        """Declare how to perform the command several times at once, without a trace.

        ``steps`` are added to the arguments from one time to the next.  The function gets the
        number of times before the arguments.  It performs as many as it can tell to succeed, each
        exactly as the command would, and returns how many; RmiError counts as none.
        """

        def declare(function: SeriesHandler) -> SeriesHandler:
            self.several = Several(steps, function)
            return function

        return declare

    def of(self, owner: object) -> "Command[R]":
        """Return the same command whose function gets ``owner``, the RMM, already."""
        command = copy(self)
        command.function = MethodType(self.function, owner)
        return command

    def fit(self, args: Sequence[int]) -> tuple[int, ...]:
        """Return as many arguments as there are parameters; those that are not given are zero."""
        return (*args, *(0,) * self.num_args)[: self.num_args]


RmiCommand = Command[RmiOutputs]
RealmCommand = Command[RealmReply]


def rmi_command(
    fid: RmiFid | Rmi2Fid | IsletRmiFid | DebugRmiFid,
) -> Callable[[Handler[RmiOutputs]], RmiCommand]:
    """Make an RMI command of ``function(rmm, [pe,] ...)``."""
    return lambda function: Command(fid, function, fixed=1)


def rsi_command(fid: RsiFid | IsletRsiFid) -> Callable[[Handler[RealmReply]], RealmCommand]:
    """Make an RSI command of ``function(rmm, rec, [pe,] ...)``."""
    return lambda function: Command(fid, function, fixed=2)


def realm_command(*fids: PsciFid | SmcccFid) -> Callable[[Handler[RealmReply]], list[RealmCommand]]:
    """Make PSCI or SMCCC commands of ``function(rmm, rec, ...)``, in one or both widths."""
    return lambda function: [Command(fid, function, fixed=2) for fid in fids]


#: What RMI 2.0 serves before the RMM is activated.
_BEFORE_ACTIVATION: Final = frozenset(
    {
        RmiFid.RMI_VERSION,
        RmiFid.RMI_FEATURES,
        Rmi2Fid.RMI_RMM_CONFIG_GET,
        Rmi2Fid.RMI_RMM_CONFIG_SET,
        Rmi2Fid.RMI_RMM_STATE_GET,
        Rmi2Fid.RMI_RMM_ACTIVATE,
        Rmi2Fid.RMI_GRANULE_TRACKING_GET,
    }
)


def before_activation(commands: Mapping[int, RmiCommand]) -> Mapping[int, RmiCommand]:
    """Return the commands of a revision while the RMM is not active: most fail in RMI 2.0."""
    if Rmi2Fid.RMI_RMM_ACTIVATE not in commands:
        return commands
    return {
        fid: command if fid in _BEFORE_ACTIVATION else _refused(command)
        for fid, command in commands.items()
    }


def _refused(command: RmiCommand) -> RmiCommand:
    """Return a command of the same name that always fails."""
    refused = copy(command)
    refused.function, refused.several = _refuse, None
    return refused


def _refuse(*_arguments: object) -> RmiOutputs:
    raise RmiError(RmiStatus.ERROR_GLOBAL)


def table(commands: Iterable[Command[R] | list[Command[R]]]) -> dict[int, Command[R]]:
    """Index commands by function id."""
    each = (command if isinstance(command, list) else [command] for command in commands)
    return {int(command.fid): command for group in each for command in group}
