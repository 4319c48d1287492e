"""Measurement: the hash chains that say what a realm was built from and what it did.

The Realm Initial Measurement (RIM) starts as the hash of the realm's parameters and is extended
with a 256-byte descriptor for every step of its construction.  The four Realm Extensible
Measurements (REM) belong to the realm.  Spec: DEN0137 1.0, "Realm measurement".
"""

import hashlib
from struct import Struct
from typing import Final

from pyvmm.arch.rmi import HashAlgorithm, RealmParams, RecParams
from pyvmm.arch.rsi import MEASUREMENT_SIZE, NUM_MEASUREMENTS

_DESCRIPTOR_SIZE: Final = 0x100
_TYPE_DATA, _TYPE_REC, _TYPE_RIPAS = 0, 1, 2
_HEAD: Final = "<B7xQ64s"  # type, size, RIM so far
_DATA: Final = Struct(_HEAD + "QQ64s96x")  # ipa, flags, hash of the content
_REC: Final = Struct(_HEAD + "64s112x")  # hash of the parameters
_RIPAS: Final = Struct(_HEAD + "QQ160x")  # base, top

_HASHES: Final = {HashAlgorithm.SHA_256: hashlib.sha256, HashAlgorithm.SHA_512: hashlib.sha512}


class Measurements:
    """The RIM and the REMs of one realm."""

    __slots__ = ("_hash", "values")

    def __init__(self, params: RealmParams) -> None:
        """Start the RIM: of ``params`` only what shapes the realm is measured."""
        self._hash = _HASHES[HashAlgorithm(params.hash_algo)]
        measured = RealmParams.of(
            flags=params.flags,
            s2sz=params.s2sz,
            sve_vl=params.sve_vl,
            num_bps=params.num_bps,
            num_wps=params.num_wps,
            pmu_num_ctrs=params.pmu_num_ctrs,
            hash_algo=params.hash_algo,
        )
        rim = self._hash(bytes(measured)).digest()
        self.values = [rim] + [bytes(len(rim))] * (NUM_MEASUREMENTS - 1)

    def extend_data(self, ipa: int, flags: int, content: bytes) -> None:
        """Extend the RIM with a page; with empty ``content`` only its place is measured."""
        digest = self._hash(content).digest() if content else b""
        self._extend_rim(
            _DATA.pack(_TYPE_DATA, _DESCRIPTOR_SIZE, self.values[0], ipa, flags, digest)
        )

    def extend_rec(self, params: RecParams) -> None:
        """Extend the RIM with the start state of a runnable REC."""
        measured = RecParams.of(flags=params.flags, pc=params.pc, gprs=params.gprs)
        digest = self._hash(bytes(measured)).digest()
        self._extend_rim(_REC.pack(_TYPE_REC, _DESCRIPTOR_SIZE, self.values[0], digest))

    def extend_ripas(self, base: int, top: int) -> None:
        """Extend the RIM with one RTT entry that became RAM."""
        self._extend_rim(_RIPAS.pack(_TYPE_RIPAS, _DESCRIPTOR_SIZE, self.values[0], base, top))

    def _extend_rim(self, descriptor: bytes) -> None:
        self.values[0] = self._hash(descriptor).digest()

    def extend_rem(self, index: int, data: bytes) -> None:
        """Extend the REM ``index`` (1 to 4) with up to 64 bytes."""
        self.values[index] = self._hash(self.values[index] + data).digest()

    def padded(self, index: int) -> bytes:
        """Return a measurement as 64 bytes."""
        return self.values[index].ljust(MEASUREMENT_SIZE, b"\0")
