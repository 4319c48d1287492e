"""Change tables under a running realm."""

from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.stage2 import level_size
from pyvmm.lab import Host, Realm, Refused, Request, attack, code

_ROUNDS = 100
_TABLES = ((code.CODE, 3), (1 << 30, 2))  # IPA and level of tables that the realm uses


@attack(
    stopped_by="the RMM changes an entry only to an equivalent one, and invalidates the TLBs",
    spec="DEN0137 1.0, RMI_RTT_CREATE, RMI_RTT_FOLD, RMI_RTT_DESTROY",
)
def race_tables(host: Host) -> bool:
    """Change tables while a realm on another PE reads its memory through them."""
    realm = Realm.victim(host)
    spare = host.delegated()
    beside = code.CODE + level_size(2)
    refused = 0
    with realm.running(Request.SPIN, pe=1) as runner:
        for _ in range(_ROUNDS):
            host.rmi(RmiFid.RMI_RTT_CREATE, realm.rd, spare, beside, 3)
            host.rmi(RmiFid.RMI_RTT_FOLD, realm.rd, beside, 3)
            refused += _attack_tables(host, realm)
    host.note(f"create and fold the table beside the realm's {_ROUNDS} times", "accepted")
    host.note("fold and destroy the realm's own tables", f"refused {refused} times")
    host.note("the realm checked its page meanwhile", f"{runner.answer} differences")
    return runner.answer != 0


def _attack_tables(host: Host, realm: Realm) -> int:
    """Try to fold and to destroy each table that the realm uses; return how often it is refused."""
    refused = 0
    for fid in (RmiFid.RMI_RTT_FOLD, RmiFid.RMI_RTT_DESTROY):
        for ipa, level in _TABLES:
            try:
                host.rmi(fid, realm.rd, ipa, level)
            except Refused:
                refused += 1
    return refused
