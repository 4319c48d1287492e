"""Replace a page of a realm that has been measured."""

from pyvmm.lab import BACK_DOOR, Break, Host, Realm, Stopped, attack, code


@attack(
    stopped_by="RMI_DATA_CREATE: the realm is not NEW",
    spec="DEN0137 1.0, RMI_DATA_CREATE; RMI_REALM_ACTIVATE",
    breaks=(Break.MEASURE,),
)
def change_after_measurement(host: Host) -> bool:
    """Build the realm that its owner wants, so that it is measured, then exchange its code.

    The new code stores the secret to shared memory.
    """
    realm = Realm.build(host)
    host.note("build and activate the owner's image: its measurement is final")
    realm.remove_page(code.CODE)
    evil = BACK_DOOR[code.CODE]
    host.attempt("put other code in its place", lambda: realm.add_page(code.CODE, evil))
    try:
        realm.start()
    except Stopped as stopped:
        host.note("run the realm", f"it does not run: {stopped}")
        return False
    host.announce(realm.rd, realm.rec)
    host.note("run the realm")
    return any(host.memory.read(realm.shared, 16))
