"""The guest of a named image: what its user leaves to pyvmm."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from pyvmm.vm.images.debian import Image
from pyvmm.vm.memory_map import GIB
from pyvmm.vm.network_options import NetworkOptions
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions

#: A realm with a network card needs that much by default, for its bounce buffers.
_RAM_SIZE: Final = GIB


def use_image(options: VmOptions, image: Image, given: Collection[str]) -> VmOptions:
    """Return options with an image's files and with the devices that its guests have.

    A kernel of the user's replaces that of the image, whose drivers do not fit it.  The network
    card does not depend on what this host can connect it to, because a realm's measurement must
    not.

    Args:
        options: as the user gave them.
        image: provides the kernel, the initial RAM disk and the first disk.
        given: the names of the options that the user gave.
    """
    disk = DiskOptions(image.rootfs, is_snapshot=not options.persists)
    has_own_kernel = options.kernel is not None
    return replace(
        options,
        kernel=options.kernel or image.kernel,
        initrd=options.initrd if has_own_kernel else options.initrd or image.initrd,
        disks=(disk, *options.disks),
        ram_size=options.ram_size if "ram_size" in given else _RAM_SIZE,
        networks=options.networks if "networks" in given else (NetworkOptions(is_optional=True),),
    )
