"""The clocks."""

import pytest

from pyvmm.devices.rtc import Mc146818, Pl031

NOW = 1_709_211_845  # Thursday 29 February 2024, 13:04:05 UTC


def read(rtc: Mc146818, register: int) -> int:
    """Read through index and data port."""
    rtc.write(0, 1, register)
    return rtc.read(1, 1)


def test_mc146818_tells_the_time_in_bcd() -> None:
    """Reset mode: BCD, 24 hours; the week starts on Sunday; the century at 0x32."""
    rtc = Mc146818(lambda: NOW)
    values = [read(rtc, register) for register in (0, 2, 4, 6, 7, 8, 9, 0x32)]
    assert values == [0x05, 0x04, 0x13, 5, 0x29, 0x02, 0x24, 0x20]


@pytest.mark.parametrize(
    ("hour", "mode", "expected"),
    [(0, 0x00, 0x12), (11, 0x00, 0x11), (12, 0x00, 0x92), (13, 0x04, 0x81), (23, 0x02, 0x23),
     (23, 0x06, 23)],
)  # fmt: skip
def test_mc146818_follows_register_b(hour: int, mode: int, expected: int) -> None:
    """DM chooses binary, 24/12 the hours: noon is 12 PM, midnight 12 AM."""
    rtc = Mc146818(lambda: 1_709_164_800 + 3600 * hour)
    rtc.write(0, 1, 0x0B)
    rtc.write(1, 1, mode)
    assert read(rtc, 4) == expected


def test_mc146818_announces_an_update_and_ignores_a_new_time() -> None:
    """UIP is set in the last 244 us of a second; the time is the host's alone."""
    assert read(Mc146818(lambda: NOW + 0.9999), 0x0A) == 0xA6
    rtc = Mc146818(lambda: NOW)
    assert (read(rtc, 0x0A), read(rtc, 0x0D)) == (0x26, 0x80)
    rtc.write(0, 1, 0)
    rtc.write(1, 1, 0x30)
    assert read(rtc, 0) == 0x05


def test_pl031_is_found_and_tells_the_time() -> None:
    """Linux's amba bus reads the peripheral id 0x00041031 and the cell id 0xb105f00d."""
    rtc = Pl031(lambda: NOW + 0.5)
    ids = bytes(rtc.read(0xFE0 + 4 * index, 4) for index in range(8))
    assert int.from_bytes(ids[:4], "little") & 0xFFFFFF == 0x041031
    assert int.from_bytes(ids[4:], "little") == 0xB105F00D
    assert rtc.read(0, 4) == NOW
