"""What an attack is: a function that drives a host, and what is to be said about it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from inspect import cleandoc
from typing import Final

from pyvmm.lab.host import Host


class Break(StrEnum):
    """A check that the lab can switch off: the platform is then another one, and attests so."""

    GPC = "gpc"  # the granule protection check on accesses of the host's kernel and its devices
    GRANULE_STATE = "granule-state"  # the RMM's books: a granule has one use
    RIPAS = "ripas"  # only the realm itself changes what an IPA is
    MEASURE = "measure"  # no content is added that the RIM does not cover
    TLBI = "tlbi"  # the RMM invalidates translations before it reuses a granule
    SCRUB = "scrub"  # the RMM clears a granule before it gets another owner
    REGISTERS = "registers"  # registers cross the boundary only where the specification says so
    LR_CHECK = "lr-check"  # the RMM checks the host's list registers
    DEBUG = "debug"  # only a realm whose measurement says so can be debugged


#: What each check is, for `pyvmm lab list`.
BREAK_MEANINGS: Final = {
    Break.GPC: "the granule protection check for the host's kernel and its devices",
    Break.GRANULE_STATE: "the RMM's rule that a granule has one use at a time",
    Break.RIPAS: "the RMM's rule that only a realm changes the state of its IPAs",
    Break.MEASURE: "the RMM's rule that content is added only before activation, and measured",
    Break.TLBI: "the RMM's TLB invalidation when an entry of a realm's tables changes",
    Break.SCRUB: "the RMM's clearing of a granule that a realm no longer uses",
    Break.REGISTERS: "the RMM's filter on the registers that cross between realm and host",
    Break.LR_CHECK: "the RMM's check of the host's list registers",
    Break.DEBUG: "the RMM's check that a realm's owner has allowed debugging",
}

#: Performs the attack; returns whether the attacker reached the aim.
Steps = Callable[[Host], bool]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: as the command line has it.
        wants: what the attacker wants, in one line; ``text`` has the details.
        stopped_by: what stops it; for one that succeeds, why nothing does.
        spec: where the specification says so.
        breaks: the checks without which it succeeds.
        succeeds: whether it succeeds anyway, because CCA does not promise against it.
        needs_token: whether it needs the root of trust.
    """

    name: str
    wants: str
    text: str
    steps: Steps
    stopped_by: str
    spec: str
    breaks: tuple[Break, ...] = ()
    succeeds: bool = False
    needs_token: bool = False
    path: str = ""  # of a user's file


def attack(
    *,
    stopped_by: str,
    spec: str,
    breaks: tuple[Break, ...] = (),
    succeeds: bool = False,
    needs_token: bool = False,
) -> Callable[[Steps], Attack]:
    """Make an attack of ``function(host) -> bool``; its docstring says what the attacker wants."""

    def declare(steps: Steps) -> Attack:
        text = cleandoc(steps.__doc__ or "")
        wants, _, rest = text.partition("\n")
        name = steps.__name__.replace("_", "-")
        return Attack(
            name, wants, rest.strip(), steps, stopped_by, spec, breaks, succeeds, needs_token
        )

    return declare
