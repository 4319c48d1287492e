"""The security lifecycle: its states, the transitions, and what each state allows.

::

    ASSEMBLY_AND_TEST --CM bundle--> ..._ROT_PROVISIONING --DM bundle--> SECURED
    SECURED <--> NON_..._DEBUG, SECURED <--> RECOVERABLE_..._DEBUG
    every state --> DECOMMISSIONED, which is final

Spec: Arm CCA security model, "CCA platform lifecycle"; PSA security model.
"""

from collections.abc import Mapping
from typing import Final

from pyvmm.token.claims import LifecycleState

_ASSEMBLY: Final = LifecycleState.ASSEMBLY_AND_TEST
_PROVISIONING: Final = LifecycleState.CCA_PLATFORM_ROT_PROVISIONING
_SECURED: Final = LifecycleState.SECURED
_DEBUG: Final = LifecycleState.NON_CCA_PLATFORM_ROT_DEBUG
_ROT_DEBUG: Final = LifecycleState.RECOVERABLE_CCA_PLATFORM_ROT_DEBUG
_END: Final = LifecycleState.DECOMMISSIONED

#: Transitions on request; provisioning bundles cause the others.
TRANSITIONS: Final[Mapping[LifecycleState, frozenset[LifecycleState]]] = {
    LifecycleState.UNKNOWN: frozenset(),
    _ASSEMBLY: frozenset({_END}),
    _PROVISIONING: frozenset({_END}),
    _SECURED: frozenset({_DEBUG, _ROT_DEBUG, _END}),
    _DEBUG: frozenset({_SECURED, _END}),
    _ROT_DEBUG: frozenset({_SECURED, _END}),
    _END: frozenset(),
}

#: States in which the platform can attest; the token contains the debug states.
ATTESTING: Final = frozenset({_SECURED, _DEBUG, _ROT_DEBUG})


def claim(state: LifecycleState) -> int:
    """Return the lifecycle claim of a state.

    >>> hex(claim(LifecycleState.SECURED))
    '0x3000'
    """
    return state << 8


def name(state: LifecycleState) -> str:
    """Return the user-visible name of a state.

    >>> name(LifecycleState.NON_CCA_PLATFORM_ROT_DEBUG)
    'non-cca-platform-rot-debug'
    """
    return state.name.lower().replace("_", "-")


#: The states by their user-visible names.
STATES: Final = {name(state): state for state in LifecycleState}
