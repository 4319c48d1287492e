"""Which caller may move a granule from which physical address space to which.

Security policy as data: a move that is not listed here is refused for every caller.
Spec: TF-A, "RMM-EL3 communication interface", RMM_GTSI_DELEGATE and RMM_GTSI_UNDELEGATE.
"""

from collections.abc import Mapping
from typing import Final

from pyvmm.arch.pas import Pas
from pyvmm.arch.rmmd import RmmdFid

Move = tuple[Pas, Pas]

#: By the caller's security state.
TRANSITIONS: Final[Mapping[Pas, frozenset[Move]]] = {
    Pas.NS: frozenset(),
    Pas.SECURE: frozenset({(Pas.NS, Pas.SECURE), (Pas.SECURE, Pas.NS)}),
    Pas.REALM: frozenset({(Pas.NS, Pas.REALM), (Pas.REALM, Pas.NS)}),
    Pas.ROOT: frozenset(),
}

#: The move that each call requests.
MOVES: Final[Mapping[int, Move]] = {
    RmmdFid.GTSI_DELEGATE: (Pas.NS, Pas.REALM),
    RmmdFid.GTSI_UNDELEGATE: (Pas.REALM, Pas.NS),
}


def moves_of(caller: Pas) -> dict[int, Move]:
    """Return the calls that a caller may make, and the move of each."""
    return {int(fid): move for fid, move in MOVES.items() if move in TRANSITIONS[caller]}
