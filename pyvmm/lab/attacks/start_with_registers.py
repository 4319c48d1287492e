"""Start a realm with other registers."""

from pyvmm.lab import IMAGE, Host, Realm, attack, code


@attack(
    stopped_by="the measurement: a REC's first registers and PC are in the RIM",
    spec="DEN0137 1.0, RMI_REC_CREATE; Realm measurement",
    needs_token=True,
)
def start_with_registers(host: Host) -> bool:
    """Start the owner's code with registers that its owner did not choose.

    X0 is the address of the device tree when a kernel starts.
    """
    realm = Realm.create(host)
    realm.load(IMAGE)
    for ipa in (code.SECRET, code.BUFFER):
        realm.add_empty_page(ipa)
    realm.share()
    realm.add_rec(0x4141_4141)
    realm.activate()
    realm.start()
    host.note("build the owner's image; start it with X0 = 0x41414141")
    challenge = host.owner.challenge()
    return host.present("show its token to the owner", realm.token(challenge), challenge)
