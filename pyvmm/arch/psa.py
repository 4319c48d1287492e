"""PSA calls as the Monitor sends them to the HES: the "embed" protocol and its services.

A message in the mailbox is its size (u32, little-endian) and a request or a reply: the fixed head
below, followed by the vectors.  A reply repeats the first four bytes of its request.  docs/hes.md
lists the inputs and outputs of each call.
Spec: TF-M, "RSE communication design"; PSA Firmware Framework, psa_call(); services 1003 and 1004
of delegated attestation, VHUK (Islet) and HES (ours) are extensions.
"""

from typing import Final

from pyvmm.arch.bits import S32, U8, U16, U32, Bytes, Field, Layout, OpenEnum, Register, U16Array

MAX_VECTORS: Final = 4  # in and out together
MAX_PAYLOAD: Final = 0x1000


class PsaStatus(OpenEnum):
    """Result of a call; other numbers are generic errors."""

    GENERIC_ERROR = -132
    SUCCESS = 0
    PROGRAMMER_ERROR = -129
    NOT_PERMITTED = -133
    NOT_SUPPORTED = -134
    INVALID_ARGUMENT = -135
    BAD_STATE = -137
    BUFFER_TOO_SMALL = -138
    DOES_NOT_EXIST = -140
    INSUFFICIENT_STORAGE = -142


class PsaHandle(OpenEnum):
    """Identifiers of the services."""

    UNKNOWN = 0
    MEASURED_BOOT = 0x4000_0110
    DELEGATED_ATTESTATION = 0x4000_0111
    VHUK = 0x4000_0112
    HES = 0x4000_0F00


class MeasuredBoot(OpenEnum):
    """Calls of the measured boot service."""

    UNKNOWN = 0
    READ = 1001
    EXTEND = 1002


class DelegatedAttestation(OpenEnum):
    """Calls of the delegated attestation service."""

    UNKNOWN = 0
    GET_KEY = 1001
    GET_TOKEN = 1002
    SIGN_HASH = 1003
    GET_PUBLIC_KEY = 1004


class Vhuk(OpenEnum):
    """Calls of the virtual HUK service."""

    UNKNOWN = 0
    GET = 1006


class HesService(OpenEnum):
    """Calls of the HES service."""

    UNKNOWN = 0
    POWER_ON = 1
    STATUS = 2
    LOG = 3
    PROVISION = 4
    SET_LIFECYCLE = 5
    ADVANCE_COUNTER = 6


class PsaHash(OpenEnum):
    """Hash algorithms (psa_algorithm_t)."""

    UNKNOWN = 0
    SHA_256 = 0x0200_0009
    SHA_384 = 0x0200_000A
    SHA_512 = 0x0200_000B


#: psa_ecc_family_t of the NIST curves over prime fields.
ECC_FAMILY_SECP_R1: Final = 0x12


class Control(Register):
    """The type of the call and the numbers of vectors; the other bits are zero."""

    IN_LEN = Field(26, 24, int)
    OUT_LEN = Field(18, 16, int)
    TYPE = Field(15, 0, int)


class PsaRequest(Layout, size=20):
    """Head of a request; ``io_size`` has the sizes of the inputs, then limits of the outputs."""

    protocol_ver = U8(0)  # 0
    seq_num = U8(1)
    client_id = U16(2)
    handle = U32(4)
    ctrl = U32(8)
    io_size = U16Array(12, MAX_VECTORS)


class PsaReply(Layout, size=16):
    """Head of a reply; ``out_size`` has the sizes of the outputs."""

    protocol_ver = U8(0)
    seq_num = U8(1)
    client_id = U16(2)
    status = S32(4)
    out_size = U16Array(8, MAX_VECTORS)


MAX_MESSAGE: Final = PsaRequest.size + MAX_PAYLOAD

# --- measured boot -----------------------------------------------------------------------------

NUM_SLOTS: Final = 32
SW_TYPE_SIZE: Final = 32
VERSION_SIZE: Final = 14
SIGNER_ID_SIZES: Final = range(32, 65)


class ExtendIn(Layout, size=44):
    """First input of EXTEND; the others are signer id, version and digest."""

    index = U8(0)
    lock = U8(1)
    algorithm = U32(4)
    sw_type = Bytes(8, SW_TYPE_SIZE)
    sw_type_size = U8(40)


class ReadIn(Layout, size=3):
    """Input of READ."""

    index = U8(0)
    sw_type_size = U8(1)  # the caller's limit
    version_size = U8(2)


class ReadOut(Layout, size=56):
    """First output of READ; the others are signer id and value."""

    is_locked = U8(0)
    algorithm = U32(4)
    sw_type = Bytes(8, SW_TYPE_SIZE)
    sw_type_size = U8(40)
    version = Bytes(41, VERSION_SIZE)
    version_size = U8(55)
