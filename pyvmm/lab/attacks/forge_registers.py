"""Change a realm's registers."""

from pyvmm.lab import Break, Host, Realm, Request, attack


@attack(
    stopped_by="RMI_REC_ENTER uses gprs only to complete what the realm asked for",
    spec="DEN0137 1.0, RMI_REC_ENTER; RmiRecEnter",
    breaks=(Break.REGISTERS,),
)
def forge_registers(host: Host) -> bool:
    """Enter an interrupted realm with other general-purpose registers than it had.

    X20 and X21 contain the realm's secret.
    """
    realm = Realm.victim(host)
    realm.interrupted(Request.SPIN)
    host.note("interrupt the realm while it compares X20 and X21 with its page")
    forged = [0] * 31
    forged[20] = forged[21] = 0x4141_4141
    differences = realm.finish(gprs=tuple(forged))
    host.note("enter it with X20 = X21 = 0x41414141", f"the realm sees {differences} differences")
    return differences != 0
