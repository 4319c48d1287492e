"""The real-time clock, as Linux's driver uses it."""

import pytest

from tests.boot.command import Running

pytestmark = pytest.mark.boot


def test_clock_is_set_and_its_alarm_interrupts(small: Running) -> None:
    """The time set is the time read, and an alarm after two seconds occurs once."""
    shell = small.shell
    assert shell.run("cd /sys/class/rtc/rtc0 && cat name").output.startswith("rtc-pl031")
    assert shell.run("date -s '2030-01-02 03:04:05' && hwclock -w -u").status == 0
    assert shell.run("cat date").output == "2030-01-02"
    assert shell.run("echo +2 > wakealarm && sleep 4").status == 0
    assert shell.run("cat wakealarm").output == ""
    interrupts = shell.run("grep rtc-pl031 /proc/interrupts").output.split()
    assert interrupts[1] == "1"
