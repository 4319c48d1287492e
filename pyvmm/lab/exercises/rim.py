"""Lesson 7: the realm initial measurement."""

import hashlib
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Final, cast

from pyvmm.arch.events import EventStream
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import RealmParams
from pyvmm.lab.exercise import Case, case, exercise, wanted
from rmm.measurement import Measurements

TEMPLATE: Final = '''
import hashlib


def extend(rim: bytes, ipa: int, content: bytes) -> bytes:
    """Return the measurement after the host has added a page."""
    return rim
'''

Extend = Callable[[bytes, int, bytes], bytes]


@exercise(7, TEMPLATE)
def rim(module: ModuleType) -> Iterator[Case]:
    """Measure a page: extend a realm's initial measurement.

    Define extend(rim, ipa, content) for RMI_DATA_CREATE with content that is measured.  The new RIM
    is the SHA-256 hash of a descriptor of 0x100 bytes, which is zero except for (little-endian):

      0x00   1 byte    0, the type for a page of data
      0x08   8 bytes   0x100, the size of the descriptor
      0x10   64 bytes  the RIM so far, zeros after its 32 bytes
      0x50   8 bytes   the IPA
      0x58   8 bytes   1, the flags: the content is measured
      0x60   64 bytes  the SHA-256 hash of the content, zeros after its 32 bytes

    Specification: DEN0137 1.0, RmmMeasurementDescriptorData.
    """
    extend = cast("Extend", wanted(module, "extend"))
    book = Measurements(0, RealmParams.of(s2sz=33), EventStream())
    for ipa, content in (
        (0x8000_0000, bytes(GRANULE_SIZE)),
        (0x8000_1000, os.urandom(GRANULE_SIZE)),
        (0xFFFF_F000, b"realm".ljust(GRANULE_SIZE, b"\xff")),
    ):
        before = book.values[0]
        book.extend_data(ipa, 1, hashlib.sha256(content).digest())
        yield _case(extend, before, ipa, content, book.values[0])


def _case(extend: Extend, before: bytes, ipa: int, content: bytes, expected: bytes) -> Case:
    return case(f"a page at {ipa:#x}", expected, lambda: extend(before, ipa, content))
