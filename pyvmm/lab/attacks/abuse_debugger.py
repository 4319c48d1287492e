"""Debug a realm that allows no debugging."""

from pyvmm.arch.rmi_debug import DebugRmiFid
from pyvmm.lab import Break, Host, Realm, Request, attack, code


@attack(
    stopped_by="RMI_PYVMM_DEBUG_READ_MEMORY: the realm's measurement does not allow it",
    spec="docs/debugging.md, RMI_PYVMM_DEBUG_READ_MEMORY (pyvmm's own; DEN0137 has no debugger)",
    breaks=(Break.DEBUG, Break.REGISTERS),
)
def abuse_debugger(host: Host) -> bool:
    """Read a realm's memory with the commands of pyvmm's debugger."""
    realm = Realm.victim(host)
    realm.interrupted(Request.SPIN)
    allow = DebugRmiFid.RMI_PYVMM_DEBUG_ALLOW
    host.attempt("allow debugging", lambda: host.rmi(allow, realm.rd))
    buffer, read = host.granule(bytes(16)), DebugRmiFid.RMI_PYVMM_DEBUG_READ_MEMORY
    call = host.attempt(
        "read the secret", lambda: host.rmi(read, realm.rec, code.SECRET, 16, buffer)
    )
    return call is not None
