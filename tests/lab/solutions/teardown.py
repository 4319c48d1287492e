"""A solution of exercise teardown."""

from pyvmm.lab import SHARED, Host, Realm, RmiFid, level_size

FIRST = 0x8000_0000


def teardown(host: Host, realm: Realm) -> None:
    """Destroy what was made last first."""
    realm.remove_rec()
    for ipa in realm.pages:
        host.rmi(RmiFid.RMI_DATA_DESTROY, realm.rd, ipa)
    host.rmi(RmiFid.RMI_RTT_UNMAP_UNPROTECTED, realm.rd, SHARED, 3)
    for ipa in (FIRST, SHARED):
        for level in (3, 2):
            base = ipa & -level_size(level - 1)
            host.rmi(RmiFid.RMI_RTT_DESTROY, realm.rd, base, level)
    host.rmi(RmiFid.RMI_REALM_DESTROY, realm.rd)
    for granule in (realm.rd, realm.rec, *realm.tables, *realm.pages.values()):
        host.rmi(RmiFid.RMI_GRANULE_UNDELEGATE, granule)
