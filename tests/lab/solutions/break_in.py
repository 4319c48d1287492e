"""A solution of exercise break-in."""

from pyvmm.lab import HELPER, Break, Host, Realm, RmiFid, attack

SECRET_IPA = 0x8000_1000


@attack(
    stopped_by="RMI_DATA_CREATE: a granule that is in use is not DELEGATED",
    spec="DEN0137 1.0, RMI_DATA_CREATE_UNKNOWN",
    breaks=(Break.GRANULE_STATE,),
)
def share_a_page(host: Host) -> bool:
    """Give the page with one realm's secret to a second realm."""
    victim = Realm.victim(host)
    helper = Realm.build(host, HELPER, secret_page=False)
    host.rmi(RmiFid.RMI_DATA_CREATE_UNKNOWN, helper.rd, victim.secret, SECRET_IPA)
    return any(helper.publish())
