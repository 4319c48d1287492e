"""What a guest needs for the directories that it shares, if its user leaves it to pyvmm."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.images import INITRD_NAME
from pyvmm.vm.images.loader import read_payload, unpack_kernel
from pyvmm.vm.options import VmOptions
from pyvmm.vm.share_options import Protocol, ShareOptions

#: Words that a driver of each protocol contains.
_SIGNS: Final = {Protocol.P9: b"9P2000.L\0", Protocol.VIRTIOFS: b"virtiofs\0"}
#: The protocol that is taken if a kernel has both.  9P is the one that kvmtool's users expect of a
#: root file system; virtio-fs is faster.
_OF_ROOT: Final = Protocol.P9
_OF_VOLUMES: Final = Protocol.VIRTIOFS


def complete_shares(options: VmOptions) -> VmOptions:
    """Return options with the initial RAM disk of a shared root, and the protocol of each share.

    The RAM disk is the one beside the kernel, where `pyvmm image build debian` puts it: Debian's
    kernel needs the drivers in it.  The protocol is one for which either has a driver.
    """
    kernel = options.kernel
    if kernel is None:
        return options
    if options.rootfs is not None:
        beside = kernel.parent / INITRD_NAME
        initrd = options.initrd or (beside if beside.is_file() else None)
        options = replace(options, initrd=initrd)
    if not any(share.is_automatic for share in options.directories):
        return options
    found = _find_protocols(kernel, options.initrd, options.ram_size)
    rootfs = options.rootfs and _choose(options.rootfs, found, _OF_ROOT)
    volumes = tuple(_choose(each, found, _OF_VOLUMES) for each in options.volumes)
    return replace(options, rootfs=rootfs, volumes=volumes)


def _choose(share: ShareOptions, found: Collection[Protocol], wanted: Protocol) -> ShareOptions:
    if not share.is_automatic:
        return share
    return share.through(wanted if wanted in found or not found else next(iter(found)))


def _find_protocols(kernel: Path, initrd: Path | None, limit: int) -> Collection[Protocol]:
    try:
        payload = [unpack_kernel(read_payload(kernel, "kernel", limit), str(kernel), limit)]
        if initrd is not None:
            payload.append(read_payload(initrd, "initrd", limit))
    except UserError:  # it is reported when the payload is loaded
        return ()
    return [name for name, sign in _SIGNS.items() if any(sign in data for data in payload)]
