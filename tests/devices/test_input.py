"""The power button: what it is, and its presses."""

from struct import unpack

import pytest

from pyvmm.devices.virtio.input import PRESS, VirtioPowerButton
from pyvmm.devices.virtio.mmio import Register
from tests.devices.driver import Driver, Request

EVENTS, LIGHTS = range(2)
KEY_POWER = 116
DOWN_UP = [(1, KEY_POWER, 1), (0, 0, 0), (1, KEY_POWER, 0), (0, 0, 0)]


@pytest.fixture
def driver() -> Driver:
    """Return the driver of a button."""
    return Driver(VirtioPowerButton()).start()


def button(driver: Driver) -> VirtioPowerButton:
    """Return the device."""
    assert isinstance(driver.device, VirtioPowerButton)
    return driver.device


def offer(driver: Driver, count: int) -> list[Request]:
    """Offer buffers for events."""
    requests = [driver.rings[EVENTS].add([], [8]) for _ in range(count)]
    driver.kick(EVENTS)
    return requests


def events(driver: Driver, requests: list[Request]) -> list[tuple[int, ...]]:
    """Return the events in the used buffers."""
    used = dict(driver.rings[EVENTS].used_entries())
    return [unpack("<HHI", each.answer()) for each in requests if each.head in used]


def answer(driver: Driver, select: int, subselect: int) -> bytes:
    """Ask the configuration space as Linux does."""
    driver.write_config(0, 1, select)
    driver.write_config(1, 1, subselect)
    size = driver.config(2, 1)
    return bytes(driver.config(8 + at, 1) for at in range(size))


def test_it_has_a_name_and_one_key(driver: Driver) -> None:
    """Everything else that a driver may ask is absent."""
    assert answer(driver, 1, 0) == b"pyvmm power button"
    assert unpack("<HHHH", answer(driver, 3, 0))[0] == 6
    keys = int.from_bytes(answer(driver, 0x11, 1), "little")
    assert keys == 1 << KEY_POWER
    known = {(1, 0), (3, 0), (0x11, 1)}
    for select in range(256):
        for subselect in (0, 1, 2, 255):
            if (select, subselect) not in known:
                assert answer(driver, select, subselect) == b""


def test_a_press_is_down_and_up(driver: Driver) -> None:
    """Four events, and one interrupt."""
    requests = offer(driver, 8)
    button(driver).press()
    assert events(driver, requests) == DOWN_UP
    assert driver.acknowledge() == 1
    assert button(driver).counters == {"presses": 1}


def test_a_press_waits_for_buffers_once(driver: Driver) -> None:
    """Presses meanwhile are no others; the next one is."""
    button(driver).press()
    button(driver).press()
    first = offer(driver, 3)
    button(driver).press()
    assert events(driver, first + offer(driver, 1)) == DOWN_UP
    second = offer(driver, 4)
    assert events(driver, second) == []
    button(driver).press()
    assert events(driver, second) == DOWN_UP
    assert button(driver).counters == {"presses": 2}


def test_without_a_driver_nothing_is_pressed(driver: Driver) -> None:
    """Also not later, when there is one."""
    assert not VirtioPowerButton().has_driver
    VirtioPowerButton().press()
    assert button(driver).has_driver
    button(driver).press()
    driver.write(Register.STATUS, 0)
    assert not button(driver).has_driver
    button(driver).press()
    driver.start()
    assert events(driver, offer(driver, 4)) == []


def test_settings_of_lights_are_returned(driver: Driver) -> None:
    """There are none, but a driver gets its buffers back."""
    driver.rings[LIGHTS].add([bytes(8)], [])
    driver.kick(LIGHTS)
    assert len(driver.rings[LIGHTS].used_entries()) == 1


def test_short_buffers_get_a_part(driver: Driver) -> None:
    """Each event takes one buffer, whatever its size."""
    driver.rings[EVENTS].add([], [3])
    driver.rings[EVENTS].add([bytes(8)], [])
    driver.kick(EVENTS)
    button(driver).press()
    assert [size for _, size in driver.rings[EVENTS].used_entries()] == [3, 0]
    assert len(PRESS) == 4
