"""Recognition of kernel panics on the console."""

import pytest

from pyvmm.vm.diagnosis.panic import PanicWatch

PANIC = (
    b"root@debian:~# echo c > /proc/sysrq-trigger\r\n"
    b"[    5.123456] Kernel panic - not syncing: sysrq triggered crash\r\n"
    b"[    5.123999] CPU: 0 UID: 0 PID: 115 Comm: bash Not tainted\r\n"
    b"[    5.130000] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n"
)


@pytest.mark.parametrize("size", [1, 3, 16, 64, len(PANIC)])
def test_panic_is_found_however_the_output_is_cut(size: int) -> None:
    """The serial port delivers lines in pieces."""
    watch = PanicWatch()
    for start in range(0, len(PANIC), size):
        watch.feed(PANIC[start : start + size])
    assert watch.has_begun
    assert watch.has_ended
    assert watch.message == "sysrq triggered crash"


def test_panic_with_a_caller_or_level_before_it_is_found() -> None:
    """printk.caller and a raw log level may precede the message."""
    watch = PanicWatch()
    watch.feed(b"<0>[    1.000000][    T1] Kernel panic - not syncing: VFS\r\n")
    assert watch.has_begun
    assert not watch.has_ended


@pytest.mark.parametrize(
    "line",
    [
        b"root@debian:~# echo Kernel panic - not syncing\r\n",
        b"dmesg: see Kernel panic - not syncing\n",
        b"Kernel panic\n",
        b"x" * 5000 + b"\n",
    ],
)
def test_talk_of_a_panic_is_none(line: bytes) -> None:
    """Only a line that begins with it counts."""
    watch = PanicWatch()
    watch.feed(line)
    assert not watch.has_begun
