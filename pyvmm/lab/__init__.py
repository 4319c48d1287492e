"""The hostile-host lab: attacks on realms, what stops them, and the proof.  See docs/lab.md."""

from pyvmm.arch.rmi import RmiFid
from pyvmm.arch.stage2 import level_size
from pyvmm.lab.attack import Attack, Break, attack
from pyvmm.lab.code import SHARED, Request
from pyvmm.lab.host import AccessFault, Host, Refused
from pyvmm.lab.realm import BACK_DOOR, HELPER, IMAGE, Realm, Stopped

__all__ = [
    "BACK_DOOR", "HELPER", "IMAGE", "SHARED", "AccessFault", "Attack", "Break", "Host", "Realm",
    "Refused", "Request", "RmiFid", "Stopped", "attack", "level_size",
]  # fmt: skip
