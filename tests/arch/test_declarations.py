"""The declarations of the architecture: their helpers, their examples, their trace lines."""

import doctest
import importlib
import pkgutil
from enum import IntEnum

import pytest

from pyvmm import arch
from pyvmm.arch import events, rmi, rsi
from pyvmm.arch.bits import U8, U64, Bytes, Field, Layout, OpenEnum, Register, U64Array
from pyvmm.arch.esr import ESR_EL2, ExceptionClass, hpfar_of, ipa_of
from pyvmm.arch.pas import Pas

MODULES = [f"pyvmm.arch.{module.name}" for module in pkgutil.iter_modules(arch.__path__)]


@pytest.mark.parametrize("name", [*MODULES, "rmm.rec"])
def test_examples_in_docstrings(name: str) -> None:
    """The doctests pass."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


class Closed(IntEnum):
    """An enumeration that raises on 2 and 3."""

    A = 0
    B = 1


def test_field_refuses_an_enumeration_that_could_raise() -> None:
    """A guest's value must never raise, so the declaration fails instead."""
    Field(3, 3, Closed)
    with pytest.raises(ValueError, match="2 is not a valid Closed"):
        Field(4, 3, Closed)


class Sample(Register):
    """A register."""

    HIGH = Field(63, 60, int)
    BIT = Field(0, 0, bool)


def test_register_refuses_values_that_do_not_fit() -> None:
    """Nothing leaks into the next field."""
    assert Sample.of(HIGH=0xF, BIT=1) == 0xF000_0000_0000_0001
    with pytest.raises(ValueError, match="HIGH"):
        Sample.of(HIGH=0x10)


def test_reserved_exception_classes_have_a_name() -> None:
    """A guest can choose EC as well."""
    assert ESR_EL2(0x3F << 26).EC is ExceptionClass.UNKNOWN
    assert issubclass(ExceptionClass, OpenEnum)


class Mixed(Layout, size=0x40):
    """A structure."""

    last = Bytes(0x38, 8)
    words = U64Array(0x08, 2)
    first = U8(0x00)
    other = U64(0x20)


def test_layout_members_and_packers() -> None:
    """Members are found by offset, whatever their order; packers skip what they do not pack."""
    mixed = Mixed.of(first=1, words=(2, 3), other=4, last=b"12345678")
    assert [member.name for member in Mixed.members()] == ["first", "words", "other", "last"]
    assert Mixed.packer().unpack(bytes(mixed)) == (1, 2, 3, 4, b"12345678")
    assert Mixed.packer(("words",), whole=False).size == 0x18
    assert Mixed.packer(("first", "other")).size == 0x40
    assert Mixed(bytes(mixed)).words == (2, 3)
    assert str(mixed).startswith("Mixed(first=1, words=(2, 3)")


def test_fault_addresses() -> None:
    """HPFAR_EL2 holds the page of the IPA from bit 4 on."""
    assert hpfar_of(0x1_2345_6789) == 0x12_3456 << 4
    assert ipa_of(hpfar_of(0x1_2345_6789)) == 0x1_2345_6000


def test_command_numbers() -> None:
    """23 RMI and 10 RSI commands of 1.0, in their ranges."""
    assert len(rmi.RmiFid) == 23
    assert len(rsi.RsiFid) == 10
    assert all(0xC400_0150 <= fid <= 0xC400_018F for fid in rmi.RmiFid)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            events.Smc(1, Pas.NS, (0xC4000150, 1), (0,)),
            "SMC pe=1 from=NS RMI_VERSION 0xc4000150 0x1 -> 0x0",
        ),
        (events.HesCall("VHUK.GET", "SUCCESS"), "HES VHUK.GET -> SUCCESS"),
        (events.HesCall("VHUK.GET", ""), "HES VHUK.GET -> gone"),
        (events.WorldSwitch(0, Pas.NS, Pas.REALM), "WORLD pe=0 NS -> REALM"),
        (
            events.RmiCall("RMI_X", ("ipa", "level"), (0x1000, (1 << 64) - 1), (0x204, 0, 5)),
            "RMI_X ipa=0x1000 level=-1 -> ERROR_RTT:2 0x0 0x5",
        ),
        (
            events.PsciCall(0x10, "CPU_ON_64", (1,), (1 << 64) - 2),
            "PSCI_CPU_ON_64 rec=0x10 0x1 -> -0x2",
        ),
        (events.PsciCall(0x10, "CPU_OFF", (), None), "PSCI_CPU_OFF rec=0x10 -> exit"),
        (
            events.GptChange(0x1000, 0x1000, Pas.NS, Pas.REALM),
            "GPT pa=0x1000 size=0x1000 NS -> REALM",
        ),
        (
            events.RttChange(0x1000, 0x2000, 3, 0, 0x20),
            "RTT rd=0x1000 ipa=0x2000 level=3 0x0 -> 0x20",
        ),
        (
            events.MmioAccess("uart", 0x900_0000, 1, is_write=True, value=0x41),
            "MMIO write 0x9000000 size=1 value=0x41 uart",
        ),
        (
            events.MmioAccess("", 0x1000, 4, is_write=False, value=0),
            "MMIO read 0x1000 size=4 value=0x0 (nothing)",
        ),
    ],
)
def test_events_are_lines(event: events.Event, line: str) -> None:
    """One event, one line of a trace."""
    assert str(event) == line
