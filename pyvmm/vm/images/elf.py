"""ELF files for arm64: open them, and reject those for other machines and damaged ones."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

from pyvmm.arch.errors import UserError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_SEGMENT_HEADER_SIZE: Final = 56
#: The limit in Linux; a damaged header may claim billions.
_MAX_SEGMENTS: Final = 1024


@contextmanager
def open_elf(data: bytes | BinaryIO, name: str) -> Iterator["ELFFile"]:
    """Open an ELF file; damage may also be found while the caller reads it.

    Raises:
        UserError: it is damaged, or not for arm64.
    """
    from elftools.common.exceptions import ELFError  # noqa: PLC0415  slow to import, rarely needed
    from elftools.construct.core import ConstructError  # noqa: PLC0415
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    try:
        elf = ELFFile(io.BytesIO(data) if isinstance(data, bytes) else data)
        if elf.header.e_machine != "EM_AARCH64":
            machine = elf.get_machine_arch()
            raise UserError(f"{name} is for {machine}: build or download one for arm64")
        num_segments, size = elf.num_segments(), elf.header.e_phentsize
        if num_segments > _MAX_SEGMENTS or (num_segments and size != _SEGMENT_HEADER_SIZE):
            raise UserError(
                f"{name} has {num_segments} program headers of {size} bytes; the limit is"
                f" {_MAX_SEGMENTS} of {_SEGMENT_HEADER_SIZE}: link it again"
            )
        yield elf
    except (ELFError, ConstructError, ValueError, KeyError, TypeError, OSError, OverflowError):
        raise UserError(f"{name} is a damaged ELF file: build or copy it again") from None
