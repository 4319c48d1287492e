"""The directories that a guest shares, read from the texts that a user writes."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from pyvmm.arch.errors import UserError
from pyvmm.devices.shared_directory import SharedDirectory

MAX_TAG: Final = 36  # bytes; virtio-fs has no room for more


class Protocol(StrEnum):
    """The protocol through which a guest uses a directory."""

    P9 = "9p"
    VIRTIOFS = "virtiofs"


#: The tag of --rootfs; with 9P as in kvmtool.
_ROOT_TAGS: Final = {Protocol.P9: "/dev/root", Protocol.VIRTIOFS: "rootfs"}
#: The kernel may cache a root file system, because nobody else should change it.
_ROOT_FLAGS: Final = {
    Protocol.P9: " rootflags=trans=virtio,version=9p2000.L,cache=loose",
    Protocol.VIRTIOFS: "",
}


@dataclass(frozen=True, slots=True)
class ShareOptions:
    """A directory that the guest shares; it is mounted by its tag."""

    path: Path
    tag: str = _ROOT_TAGS[Protocol.P9]
    is_read_only: bool = False
    protocol: Protocol = Protocol.P9
    is_automatic: bool = False  # the protocol is what the kernel has
    mount_point: str = ""  # in the guest, whose agent mounts it

    def through(self, protocol: Protocol) -> "ShareOptions":
        """Return the same directory through another protocol."""
        tag = _ROOT_TAGS[protocol] if self.is_root else self.tag
        return replace(self, tag=tag, protocol=protocol, is_automatic=False)

    @property
    def is_root(self) -> bool:
        """Whether it is the root file system."""
        return self.tag == _ROOT_TAGS[self.protocol]

    @property
    def root_parameters(self) -> str:
        """The kernel parameters that make it the root file system."""
        access = "ro" if self.is_read_only else "rw"
        return f"root={self.tag} {access} rootfstype={self.protocol}{_ROOT_FLAGS[self.protocol]}"


def parse_shares(protocol: Protocol, texts: Sequence[str]) -> tuple[ShareOptions, ...]:
    """Read DIR,TAG[,ro] of each shared directory.

    Raises:
        UserError: a tag is missing, invalid, or occurs twice.
    """
    shares = tuple(_parse_share(protocol, text) for text in texts)
    for tag, count in Counter(share.tag for share in shares).items():
        if count > 1:
            raise UserError(
                f"--{protocol}: {count} directories have the tag {tag}: give each its own"
            )
    return shares


parse_9p: Final = partial(parse_shares, Protocol.P9)
parse_virtiofs: Final = partial(parse_shares, Protocol.VIRTIOFS)


def _parse_share(protocol: Protocol, text: str) -> ShareOptions:
    rest, is_read_only = _split(text, "ro", "rw")
    path, _, tag = rest.rpartition(",")
    if not path or not tag:
        raise UserError(f"--{protocol} {text}: give DIR,TAG or DIR,TAG,ro")
    if len(tag) > MAX_TAG or not re.fullmatch(r"[!-~]+", tag) or tag in _ROOT_TAGS.values():
        raise UserError(
            f"--{protocol} {text}: a tag has 1 to {MAX_TAG} printable ASCII characters, no space,"
            f" and is not {' or '.join(_ROOT_TAGS.values())}"
        )
    return ShareOptions(Path(path), tag, is_read_only == "ro", protocol)


def parse_volumes(texts: Sequence[str]) -> tuple[ShareOptions, ...]:
    """Read DIR:PATH[:ro] of each directory that the guest's agent mounts.

    Raises:
        UserError: a path is missing, not absolute, or occurs twice.
    """
    volumes = tuple(_parse_volume(text, number) for number, text in enumerate(texts))
    for path, count in Counter(each.mount_point for each in volumes).items():
        if count > 1:
            raise UserError(f"--volume: {count} directories at {path}: give each its own path")
    return volumes


def _parse_volume(text: str, number: int) -> ShareOptions:
    path, _, access = text.rpartition(":")
    if access not in {"ro", "rw"}:
        path, access = text, "rw"
    directory, _, mount_point = path.rpartition(":")
    if not directory or not mount_point.startswith("/") or "\0" in mount_point:
        raise UserError(f"--volume {text}: give DIR:PATH or DIR:PATH:ro, with an absolute PATH")
    return ShareOptions(
        Path(directory),
        f"pyvmm.volume{number}",
        access == "ro",
        is_automatic=True,
        mount_point=os.path.normpath(mount_point),
    )


def parse_rootfs(text: str) -> ShareOptions:
    """Read DIR[,ro][,9p|,virtiofs]; a name that ends in such a word needs one more."""
    rest, word = _split(text, *Protocol)
    path, access = _split(rest, "ro", "rw")
    share = ShareOptions(Path(path), is_read_only=access == "ro", is_automatic=True)
    return share.through(Protocol(word)) if word else share


def _split(text: str, *words: str) -> tuple[str, str]:
    """Split the last word off, if it is one of these; return the rest and the word."""
    rest, _, word = text.rpartition(",")
    return (rest, word) if rest and word in words else (text, "")


def check_directories(shares: Iterable[ShareOptions]) -> None:
    """Check that the shared directories exist, before anything is started.

    Raises:
        UserError: one is not a directory.
    """
    for share in shares:
        SharedDirectory(share.path).close()


def of_protocol(shares: Iterable[ShareOptions], protocol: Protocol) -> list[ShareOptions]:
    """Return the directories that are shared through a protocol."""
    return [share for share in shares if share.protocol == protocol]
