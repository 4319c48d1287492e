"""The GICv3 Interrupt Translation Service: register offsets, fields and commands.

An ITS turns an event of a device (the data of its message-signalled interrupt) into an LPI of a
CPU.  Only what an ITS without virtual LPIs has is listed.  Spec: Arm IHI 0069, "The ITS".
"""

from enum import IntEnum
from typing import Final

from pyvmm.arch.bits import Field, OpenEnum, Register

ITS_SIZE: Final = 0x2_0000  # the control frame, then the translation frame

GITS_CTLR: Final = 0x0000
GITS_IIDR: Final = 0x0004
GITS_TYPER: Final = 0x0008  # 64 bits, like all of the following but PIDR2
GITS_CBASER: Final = 0x0080
GITS_CWRITER: Final = 0x0088
GITS_CREADR: Final = 0x0090
GITS_BASER: Final = 0x0100  # + 8 * n
GITS_TRANSLATER: Final = 0x1_0040  # where devices write the data of their messages

GITS_CTLR_ENABLED: Final = 1 << 0
GITS_CTLR_QUIESCENT: Final = 1 << 31

COMMAND_SIZE: Final = 32
PAGE_SIZE: Final = 0x1000  # of the command queue, and here of all tables


class TYPER(Register):
    """GITS_TYPER: the features of an ITS."""

    PHYSICAL = Field(0, 0, bool)
    ITT_ENTRY_SIZE = Field(7, 4, int)  # bytes minus one
    ID_BITS = Field(12, 8, int)  # of an event's number, minus one
    DEV_BITS = Field(17, 13, int)  # of a device's number, minus one
    CID_BITS = Field(35, 32, int)  # of a collection's number, minus one
    CIL = Field(36, 36, bool)  # CID_BITS counts; otherwise they are 16


class CBASER(Register):
    """GITS_CBASER: the command queue."""

    SIZE = Field(7, 0, int)  # pages minus one
    SHAREABILITY = Field(11, 10, int)
    ADDRESS = Field(51, 12, int)
    OUTER_CACHE = Field(55, 53, int)
    INNER_CACHE = Field(61, 59, int)
    VALID = Field(63, 63, bool)


class TableType(OpenEnum):
    """What the table of a GITS_BASER<n> holds."""

    NONE = 0
    DEVICES = 1
    COLLECTIONS = 4


class BASER(Register):
    """GITS_BASER<n>: a table of the ITS in memory."""

    SIZE = Field(7, 0, int)  # pages minus one
    PAGE_SIZE = Field(9, 8, int)  # 0: 4 KiB
    SHAREABILITY = Field(11, 10, int)
    ADDRESS = Field(47, 12, int)
    ENTRY_SIZE = Field(52, 48, int)  # bytes minus one
    OUTER_CACHE = Field(55, 53, int)
    TYPE = Field(58, 56, TableType)
    INNER_CACHE = Field(61, 59, int)
    VALID = Field(63, 63, bool)


#: The offset of a command in its queue, in GITS_CREADR and GITS_CWRITER.
QUEUE_OFFSET: Final = 0xF_FFE0


class ItsCommand(IntEnum):
    """The numbers of the commands: the lowest byte of each."""

    MOVI = 0x01
    INT = 0x03
    CLEAR = 0x04
    SYNC = 0x05
    MAPD = 0x08
    MAPC = 0x09
    MAPTI = 0x0A
    MAPI = 0x0B
    INV = 0x0C
    INVALL = 0x0D
    MOVALL = 0x0E
    DISCARD = 0x0F
