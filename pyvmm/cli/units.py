"""Numbers as people read them."""

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size(number: float) -> str:
    """Return a number of bytes in a unit that leaves few digits.

    >>> size(0), size(4096), size(1_600_000_000)
    ('0 B', '4.0 KiB', '1.5 GiB')
    """
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"


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
