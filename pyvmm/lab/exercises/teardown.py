"""Lesson 6: the end of a realm."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Final, cast

from pyvmm.lab.exercise import Case, case, exercise, wanted
from pyvmm.lab.host import Host
from pyvmm.lab.realm import Realm
from pyvmm.lab.world import new_world

TEMPLATE: Final = '''
from pyvmm.lab import SHARED, Host, Realm, RmiFid, level_size


def teardown(host: Host, realm: Realm) -> None:
    """Destroy the realm, and take all its memory back."""
'''

Teardown = Callable[[Host, Realm], None]


@exercise(6, TEMPLATE)
def teardown(module: ModuleType) -> Iterator[Case]:
    """Destroy a realm, and take all its memory back.

    Define teardown(host, realm).  `host.rmi(RmiFid.NAME, x1, ...)` performs a command of the RMM
    and returns its outputs; it raises Refused, which names the status, if the RMM refuses.  The
    realm has

      realm.rd, realm.rec     its RD and its REC
      realm.pages             the PAs of its pages by IPA
      realm.shared            a page of the host's, which is mapped at SHARED
      realm.tables            the PAs of its tables: the start table (level 1) first, then pairs of
                              level 2 and 3: for the IPAs 0x80000000 and SHARED
      realm.remove_rec()      destroys the REC and takes back the granules that it was lent

    At the end no granule of the host may be left in the Realm world.  The commands are described in
    docs/rmm-abi.md: RMI_DATA_DESTROY, RMI_RTT_UNMAP_UNPROTECTED, RMI_RTT_DESTROY (the
    tables of level 3 before those of level 2), RMI_REALM_DESTROY, RMI_GRANULE_UNDELEGATE.
    """
    end = cast("Teardown", wanted(module, "teardown"))
    for what, has_run in (("a realm that has not run", False), ("a realm that has run", True)):
        world = new_world()
        before = world.witness.count_realm_granules()
        realm = Realm.build(world.host)
        if has_run:
            realm.start()
        yield case(f"{what}: no command is refused", None, partial(end, world.host, realm))
        yield case("  realms that are left", 0, world.witness.count_realms)
        yield case("  granules in the Realm world", before, world.witness.count_realm_granules)
