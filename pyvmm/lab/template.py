"""The file that `pyvmm lab new` writes."""

from typing import Final

TEMPLATE: Final = '''"""One attack on a realm.  Run it with: pyvmm lab run ./{file}"""

from pyvmm.lab import Host, Realm, Request, attack


@attack(
    # What stops it, and where the specification says so.  Both are printed.
    stopped_by="the granule protection check",
    spec="Arm DDI 0487, Granule Protection Checks",
    # Checks without which it succeeds: breaks=(Break.GPC,), with Break from pyvmm.lab.
    # If CCA does not promise against it: succeeds=True.  If it needs tokens: needs_token=True.
)
def {name}(host: Host) -> bool:
    """Read a realm's secret with the host's kernel.

    The first line says what the attacker wants.
    """
    # A realm of another owner: it has made a secret and waits for requests (Request.CHECK, ...).
    realm = Realm.victim(host)

    # Whatever you try may be refused: attempt() records how it ended, and returns None if refused.
    # host.rmi(RmiFid...., x1, x2, ...) calls the RMM; host.memory, host.device() and host.access()
    # are the host's kernel, a device, and an instruction on a PE.
    data = host.attempt("read the page", lambda: host.memory.read(realm.secret, 16))

    # note() records a step that always works.
    host.note("the realm compares its page", f"equal: {{bool(realm.ask(Request.CHECK))}}")

    # Return whether the attacker reached the aim.  A leak or a change of the realm, which the
    # simulator finds by itself, counts as reached, too.
    return data is not None
'''
