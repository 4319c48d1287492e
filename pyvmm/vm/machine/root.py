"""What a guest needs for a directory as its root file system, if its user leaves it to pyvmm."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.vm.images import INITRD_NAME
from pyvmm.vm.images.loader import read_payload, unpack_kernel
from pyvmm.vm.options import VmOptions
from pyvmm.vm.share_options import Protocol

#: Words that a driver of each protocol contains; the first protocol that is found is taken.
_SIGNS: Final = {Protocol.P9: b"9P2000.L\0", Protocol.VIRTIOFS: b"virtiofs\0"}


def complete_root(options: VmOptions) -> VmOptions:
    """Return options with the initial RAM disk and the protocol of the root file system.

    The RAM disk is the one beside the kernel, where `pyvmm image build debian` puts it: Debian's
    kernel needs the drivers in it.  The protocol is one for which either has a driver; 9P first.
    """
    if options.rootfs is None or options.kernel is None:
        return options
    beside = options.kernel.parent / INITRD_NAME
    initrd = options.initrd or (beside if beside.is_file() else None)
    rootfs = options.rootfs
    if rootfs.is_automatic:
        rootfs = rootfs.through(_find_protocol(options.kernel, initrd, options.ram_size))
    return replace(options, rootfs=rootfs, initrd=initrd)


def _find_protocol(kernel: Path, initrd: Path | None, limit: int) -> Protocol:
    try:
        payload = [unpack_kernel(read_payload(kernel, "kernel", limit), str(kernel), limit)]
        if initrd is not None:
            payload.append(read_payload(initrd, "initrd", limit))
    except UserError:  # it is reported when the payload is loaded
        return Protocol.P9
    found = (name for name, sign in _SIGNS.items() if any(sign in data for data in payload))
    return next(found, Protocol.P9)
