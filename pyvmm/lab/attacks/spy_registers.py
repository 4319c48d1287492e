"""Read a realm's registers at an exit."""

from pyvmm.lab import Break, Host, Realm, Request, attack


@attack(
    stopped_by="the RMM: an exit shows only the registers that the realm passes on",
    spec="DEN0137 1.0, RmiRecExit; Realm exception model",
    breaks=(Break.REGISTERS,),
)
def spy_registers(host: Host) -> bool:
    """Interrupt a realm when its secret is in its registers, and look at the exit record."""
    realm = Realm.victim(host)
    leave = realm.interrupted(Request.SPIN)
    shown = {f"X{n}": hex(value) for n, value in enumerate(leave.gprs) if value}
    host.note("interrupt the realm; the record shows", shown or "no register")
    realm.finish()
    return bool(shown)
