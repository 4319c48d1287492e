"""Change a realm's device tree."""

from pyvmm.lab import IMAGE, Break, Host, Realm, attack, code

_EVIL = b"ram=64K console=attacker\0"


@attack(
    stopped_by="the measurement: the owner's verifier sees another RIM",
    spec="DEN0137 1.0, Realm measurement: RMI_DATA_CREATE extends the RIM",
    breaks=(Break.MEASURE,),
    needs_token=True,
)
def change_device_tree(host: Host) -> bool:
    """Describe another machine to the realm: its console leads to the attacker.

    First in the image; then, because that is measured, in the activated realm.
    """
    challenge = host.owner.challenge()
    realm = Realm.victim(host, {**IMAGE, code.DEVICE_TREE: _EVIL})
    host.present("build a realm with another device tree", realm.token(challenge), challenge)
    late = Realm.build(host)
    late.remove_page(code.DEVICE_TREE)
    changed = host.attempt(
        "exchange the device tree after the activation",
        lambda: late.add_page(code.DEVICE_TREE, _EVIL),
    )
    return changed is not None
