"""Change, forge and drop a realm's messages."""

from pyvmm.lab import Host, Realm, Request, attack, code


@attack(
    stopped_by="the realm's own integrity tag: CCA gives it the key, not the protocol",
    spec="Arm DEN0096, CCA Security Model: devices are outside the realm",
)
def forge_messages(host: Host) -> bool:
    """Change or drop what a realm sends itself through its host: a disk block or a packet.

    The lab's realm adds a tag (a toy: the point is that the key is the realm's).  Dropping is
    always possible; the realm notices.
    """
    realm = Realm.victim(host)
    record = realm.shared + code.RECORD_OFFSET
    realm.ask(Request.SEAL)
    number, tag = (host.memory.read(record + at, 8) for at in (0, 8))
    believed = []
    for what, data in {
        "another number": b"\x09" + number[1:] + tag,
        "another tag": number + bytes(8),
        "nothing": bytes(16),
    }.items():
        host.memory.write(record, data)
        answer = realm.ask(Request.UNSEAL)
        host.note(f"return {what}", f"the realm believes {answer}" if answer else "rejected")
        believed.append(answer)
    return any(believed)
