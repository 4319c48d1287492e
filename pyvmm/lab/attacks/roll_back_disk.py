"""Give a realm an old disk."""

from pyvmm.lab import Host, Realm, Request, attack, code


@attack(
    stopped_by="nothing: CCA protects memory, and a disk is the host's",
    spec="Arm DEN0096, CCA Security Model: devices are outside the realm",
    succeeds=True,
)
def roll_back_disk(host: Host) -> bool:
    """Keep a copy of a realm's disk, and return it later: encrypted, authentic, and old.

    The tag of each block is right.  A realm that must notice needs a counter that its host does
    not keep, for instance its owner's.
    """
    realm = Realm.victim(host)
    record = realm.shared + code.RECORD_OFFSET
    realm.ask(Request.SEAL)
    old = host.memory.read(record, 16)
    latest = realm.ask(Request.SEAL)
    host.note("the realm writes two versions; the host keeps the first", f"latest: {latest}")
    host.memory.write(record, old)
    answer = realm.ask(Request.UNSEAL)
    host.note("return the first", f"the realm believes version {answer}")
    return answer == latest - 1
