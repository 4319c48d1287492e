"""Give a realm a page that a device is writing to."""

from pyvmm.lab import Break, Host, Realm, Request, attack, code


@attack(
    stopped_by="the granule protection check; a delegated granule starts as zeros",
    spec="DEN0137 1.0, RMI_GRANULE_DELEGATE; Arm DDI 0487, Granule Protection Checks",
    breaks=(Break.GPC,),
)
def delegate_during_dma(host: Host) -> bool:
    """Delegate a page while a device writes to it, so that the device changes a realm's memory.

    The device has been given the address while the page was still the host's.
    """
    page, device = host.granule(b"old"), host.device()
    window = device.view(page, 16)
    realm = Realm.build(host, secret_page=False)
    host.note(f"a device begins a transfer to {page:#x}")
    host.delegate(page)
    realm.add_empty_page(code.SECRET, page)
    realm.start()
    host.announce(realm.rd, realm.rec)
    host.note(f"give {page:#x} to the realm, which writes its secret there")
    window[:3] = b"new"
    host.attempt("the device continues", lambda: device.write(page, b"new"))
    answer = realm.ask(Request.CHECK)
    host.note("the realm compares its page with its registers", f"equal: {bool(answer)}")
    return not answer
