"""Replace a realm's page with zeros."""

from pyvmm.lab import Break, Host, Realm, Request, Stopped, attack, code


@attack(
    stopped_by="the RIPAS becomes DESTROYED: the realm's access exits, until the realm consents",
    spec="DEN0137 1.0, RMI_DATA_DESTROY, RMI_DATA_CREATE_UNKNOWN",
    breaks=(Break.RIPAS, Break.TLBI),
)
def zero_page(host: Host) -> bool:
    """Destroy a realm's page and give it a new one, so that the realm reads zeros for its secret.

    A key of zeros, or a counter that starts again, would be as good as knowing it.
    """
    realm = Realm.victim(host)
    realm.remove_page(code.SECRET)
    host.note("destroy the realm's page")
    host.attempt("give it a new one", lambda: realm.add_empty_page(code.SECRET))
    try:
        answer = realm.ask(Request.CHECK)
    except Stopped as stopped:
        host.note("the realm reads the page", f"it cannot: {stopped}")
        return False
    host.note("the realm reads the page", f"equal: {bool(answer)}")
    return not answer
