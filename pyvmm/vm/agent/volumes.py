"""Mount the directories that a guest shares as volumes, through its agent."""

from collections.abc import Iterator, Sequence

from pyvmm.vm.share_options import Protocol, ShareOptions

#: $0 is the mount point; the rest are mount's arguments.
_SCRIPT = 'mkdir -p "$0" && exec mount "$@" "$0"'
_OPTIONS = {Protocol.P9: "trans=virtio,version=9p2000.L,msize=512000", Protocol.VIRTIOFS: ""}


def mount_commands(volumes: Sequence[ShareOptions]) -> Iterator[list[str]]:
    """Yield the command that mounts each volume, parents first."""
    for each in sorted(volumes, key=lambda each: each.mount_point):
        words = filter(None, (_OPTIONS[each.protocol], "ro" if each.is_read_only else "rw"))
        mount = ("-t", each.protocol, "-o", ",".join(words), each.tag)
        yield ["sh", "-c", _SCRIPT, each.mount_point, *mount]
