"""Measurement: the hash chains over a realm's construction and its own extensions.

The Realm Initial Measurement (RIM) starts as the hash of the realm's parameters in RMI 1.0, as
zeros in RMI 2.0, and is extended with a 256-byte descriptor for every measured step of its
construction: RIPAS is not measured in RMI 2.0.  The four Realm Extensible
Measurements (REM) are extended by the realm.  Spec: DEN0137 1.0, "Realm measurement".
"""

import hashlib
from struct import Struct
from typing import Final

from pyvmm.arch import rmi_debug
from pyvmm.arch.events import EventStream, RimExtension
from pyvmm.arch.rmi import HashAlgorithm, RealmParams, RecParams
from pyvmm.arch.rmi_revisions import VERSION_1_0
from pyvmm.arch.rsi import MEASUREMENT_SIZE, NUM_MEASUREMENTS

_DESCRIPTOR_SIZE: Final = 0x100
_TYPE_DATA, _TYPE_REC, _TYPE_RIPAS = 0, 1, 2
_HEAD: Final = "<B7xQ64s"  # type, size, RIM so far
_DATA: Final = Struct(_HEAD + "QQ64s96x")  # ipa, flags, hash of the content
_REC: Final = Struct(_HEAD + "64s112x")  # hash of the parameters
_HEAD_ONLY: Final = Struct(_HEAD + "176x")
_RIPAS: Final = Struct(_HEAD + "QQ160x")  # base, top

_HASHES: Final = {
    HashAlgorithm.SHA_256: hashlib.sha256,
    HashAlgorithm.SHA_384: hashlib.sha384,
    HashAlgorithm.SHA_512: hashlib.sha512,
}


#: The measured parameters of a realm and of a REC.
_REALM_FIELDS: Final = (
    "flags", "s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs", "hash_algo",
)  # fmt: skip
_REC_FIELDS: Final = ("flags", "pc", "gprs")


class Measurements:
    """The RIM and the REMs of one realm."""

    __slots__ = ("_events", "_hash", "_rd", "values")

    def __init__(
        self, rd: int, params: RealmParams, events: EventStream, revision: int = VERSION_1_0
    ) -> None:
        """Start the RIM with the part of ``params`` that this revision of RMI measures."""
        self._rd = rd
        self._events = events
        self._hash = _HASHES[HashAlgorithm(params.hash_algo)]
        zeros = bytes(self._hash().digest_size)
        self.values = [zeros] * NUM_MEASUREMENTS
        if revision != VERSION_1_0:
            self._emit("REALM_CREATE", rmi=revision, hash_algo=params.hash_algo)
            return
        fields = {name: getattr(params, name) for name in _REALM_FIELDS}
        self.values[0] = self._hash(bytes(RealmParams.of(**fields))).digest()
        self._emit("REALM_CREATE", **fields)

    def hash_of(self, content: bytes | memoryview) -> bytes:
        """Return the hash of the content of a page."""
        return self._hash(content).digest()

    def extend_data(self, ipa: int, flags: int, digest: bytes) -> None:
        """Extend the RIM with a page; with an empty ``digest``, only with its IPA."""
        self._extend_rim(
            _DATA.pack(_TYPE_DATA, _DESCRIPTOR_SIZE, self.values[0], ipa, flags, digest)
        )
        if self._events.listener is not None:
            self._emit("DATA", ipa=ipa, flags=flags, content=digest)

    def extend_rec(self, params: RecParams) -> None:
        """Extend the RIM with the initial state of a runnable REC."""
        fields = {name: getattr(params, name) for name in _REC_FIELDS}
        digest = self.hash_of(bytes(RecParams.of(**fields)))
        self._extend_rim(_REC.pack(_TYPE_REC, _DESCRIPTOR_SIZE, self.values[0], digest))
        self._emit("REC", **fields)

    def extend_ripas(self, base: int, top: int) -> None:
        """Extend the RIM with one RTT entry that became RAM."""
        self._extend_rim(_RIPAS.pack(_TYPE_RIPAS, _DESCRIPTOR_SIZE, self.values[0], base, top))
        if self._events.listener is not None:
            self._emit("RIPAS", base=base, top=top)

    def extend_debug(self) -> None:
        """Extend the RIM with the permission to debug the realm."""
        self._extend_rim(_HEAD_ONLY.pack(rmi_debug.RIM_TYPE, _DESCRIPTOR_SIZE, self.values[0]))
        self._emit("DEBUG")

    def _extend_rim(self, descriptor: bytes) -> None:
        self.values[0] = self._hash(descriptor).digest()

    def _emit(self, step: str, **fields: int | bytes | tuple[int, ...]) -> None:
        if self._events.listener is not None:
            rim = self.values[0]
            self._events.listener(RimExtension(self._rd, step, tuple(fields.items()), rim))

    def extend_rem(self, index: int, data: bytes) -> None:
        """Extend the REM ``index`` (1 to 4) with up to 64 bytes."""
        self.values[index] = self._hash(self.values[index] + data).digest()

    def padded(self, index: int) -> bytes:
        """Return a measurement as 64 bytes."""
        return self.values[index].ljust(MEASUREMENT_SIZE, b"\0")
