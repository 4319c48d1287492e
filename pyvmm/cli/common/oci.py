"""--oci: the guest that runs a container image, packed into its initial RAM disk."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.cli.common.images import named_image
from pyvmm.vm.images.oci import find_owner, unpacked
from pyvmm.vm.images.rootfs import build_rootfs
from pyvmm.vm.images.store import DEBIAN
from pyvmm.vm.memory_map import GIB, MIB
from pyvmm.vm.options import VmOptions

#: The initial RAM disk is in memory twice while Linux unpacks it.
_COPIES: Final = 2


def use_oci(options: VmOptions, *, has_size: bool) -> VmOptions:
    """Return options with the kernel of Debian's image, and with the container in the RAM disk.

    Args:
        options: as the user gave them.
        has_size: whether the user gave the size of the memory.

    Raises:
        UserError: the image cannot be packed, or an option excludes --oci.
    """
    assert options.oci is not None  # noqa: S101  it is asked for
    if options.image is not None:
        raise UserError(f"--image {options.image} excludes --oci: give one of them")
    debian = None
    if options.kernel is None or options.initrd is None:
        debian = named_image(DEBIAN)
    initrd = options.initrd or (debian.initrd if debian else None)
    made = _pack(options.oci, options.oci_words, initrd)
    needed = GIB + -(-made.stat().st_size * _COPIES // MIB) * MIB
    return replace(
        options,
        kernel=options.kernel or (debian.kernel if debian else None),
        initrd=made,
        ram_size=options.ram_size if has_size else needed,
        wants_agent=options.wants_agent is not False,
    )


def _pack(source: str, words: Sequence[str], initrd: Path | None) -> Path:
    """Return the initial RAM disk with the container, a file without a name.

    Nobody has to remove it: it exists while this process does, and its children can open it.
    """
    with tempfile.TemporaryDirectory(prefix="pyvmm-oci-") as scratch, unpacked(source) as image:
        made = Path(scratch, "initrd.img")
        entry_point = image.entry_point(words=words)
        build_rootfs(image.rootfs, made, entry_point, initrd=initrd, owner=find_owner)
        return Path(f"/proc/{os.getpid()}/fd/{os.open(made, os.O_RDONLY | os.O_CLOEXEC)}")
