"""Numbers and bytes in the form that users read and write."""

import math
from typing import Final

import click

from pyvmm.arch.errors import UserError

#: Seconds: poll(2) counts milliseconds in 31 bits.
_MAX_SECONDS: Final = 2_000_000

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


class Seconds(click.FloatRange):
    """A number of seconds to wait, within the limits of every way to wait."""

    def __init__(self, least: float = 0) -> None:
        super().__init__(min=least, max=_MAX_SECONDS)

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the number."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def size(number: float) -> str:
    """Return a number of bytes in a unit that keeps it short.

    >>> size(0), size(4096), size(1_600_000_000)
    ('0 B', '4.0 KiB', '1.5 GiB')
    """
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"


def short_size(number: float) -> str:
    """Return a number of bytes in four characters at most.

    >>> short_size(0), short_size(4096), short_size(512 << 20), short_size(1_600_000_000)
    ('0', '4.0K', '512M', '1.5G')
    """
    for suffix in ("", "K", "M", "G", "T"):
        if number < 999.5 or suffix == "T":
            break
        number /= 1024
    return f"{number:.0f}{suffix}" if not suffix or number >= 9.95 else f"{number:.1f}{suffix}"


def duration(seconds: float) -> str:
    """Return a time in its largest unit.

    >>> duration(0.4), duration(59), duration(3599), duration(7200), duration(200_000)
    ('0s', '59s', '59m', '2h', '2d')
    """
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"


def plural(number: int, noun: str) -> str:
    """Return a number and a noun, singular or plural.

    >>> plural(1, "instance"), plural(0, "byte")
    ('1 instance', '0 bytes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def count(number: float) -> str:
    """Return a number with a suffix.

    >>> count(7), count(1234), count(25_000_000)
    ('7', '1.2k', '25.0M')
    """
    for suffix in ("", "k", "M", "G"):
        if number < 1000 or suffix == "G":
            break
        number /= 1000
    return f"{number:.0f}" if not suffix else f"{number:.1f}{suffix}"


def octets(option: str, text: str) -> bytes:
    r"""Return the bytes that an option gives in hexadecimal digits.

    An empty text is an error: it usually comes from a variable that is not set.

    >>> octets("--challenge", "0x00ff")
    b'\x00\xff'

    Raises:
        UserError: the text is empty or contains other characters.
    """
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise UserError(f"{option} {text}: give hexadecimal digits") from None
    if not data:
        raise UserError(f"{option} is empty: give hexadecimal digits, or omit the option")
    return data
