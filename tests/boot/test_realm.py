"""A realm as a user runs it: the command, a script on standard input, a disk, a network."""

import hashlib
import shutil
import time
from pathlib import Path

import pytest

from pyvmm.devices import libslirp
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.boot.atomics import atomics_program
from tests.boot.command import copy_disk, guest_options, is_clean, pyvmm, read_from
from tests.boot.inside import Inside, holdings, settled
from tests.boot.server import served_files
from tests.boot.shell import Answer

pytestmark = pytest.mark.boot

MIB = 1 << 20
NUM_SOAK_BOOTS = 50  # of each of four kinds


def test_script_with_disk_and_network(debian: Image, tmp_path: Path, seed: int) -> None:
    """With all devices at once; the disk is clean and contains what was written."""
    disk = copy_disk(debian, tmp_path)
    content = hashlib.shake_128(str(seed).encode()).digest(MIB)
    with served_files({"file": content}) as port:
        has_network = shutil.which("passt") or libslirp.is_installed()
        network = ["-n", "mode=user"] if has_network else []
        fetch = (
            "gateway=$(ip -color=never route | awk '/default/{print $3}')\n"
            f"curl -sS http://$gateway:{port}/file >/root/file\n"
            if network
            else f"head -c {MIB} /dev/zero >/root/file\n"
        )
        script = f"{fetch}sha256sum </root/file >/root/sum\ncat /etc/hostname\npoweroff -f\n"
        options = guest_options(debian, disk)
        ended = pyvmm("run", "--realm", "--rng", *network, *options, typed=script)
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    assert "RME: Using RSI version 1.0" in ended.output
    assert "\ndebian\r\n" in ended.output
    assert is_clean(disk)
    expected = content if network else bytes(MIB)
    assert read_from(disk, "/root/sum").split()[:1] == [hashlib.sha256(expected).hexdigest()]


def test_disk_works_with_a_small_bounce_pool(debian: Image, tmp_path: Path) -> None:
    """256 slots (0.5 MiB), as in Linux 7.3 with 512 MiB: one large request would fill it."""
    disk = copy_disk(debian, tmp_path)
    params = "console=ttyS0 root=/dev/vda rw swiotlb=256"
    script = "dd if=/dev/zero of=/root/file bs=1M count=8\nsha256sum </root/file\npoweroff -f\n"
    options = (*guest_options(debian, disk), "-p", params, "--rng", "--timeout", "150")
    ended = pyvmm("run", "--realm", *options, typed=script)
    assert (ended.code, ended.errors) == (ExitCode.OK, "")
    assert hashlib.sha256(bytes(8 * MIB)).hexdigest() in ended.output
    assert is_clean(disk)


def test_panic_in_a_realm_leaves_no_granule_behind(debian: Image) -> None:
    """Both CPUs count correctly, and all memory returns although no CPU was turned off."""
    options = VmOptions(kernel=debian.kernel, initrd=debian.initrd, num_cpus=2, is_realm=True)
    with Inside(options) as guest:
        guest.shell.log_in()
        guest.shell.store("atomics", atomics_program())
        assert guest.shell.run("./atomics") == Answer(0, "")
        guest.shell.type("echo c >/proc/sysrq-trigger\n")
        assert guest.wait() is ExitCode.PANIC
        assert guest.platform.leak_check() == []


@pytest.mark.slow
@pytest.mark.parametrize("num_cpus", [1, 2])
@pytest.mark.parametrize("is_realm", [False, True])
def test_boots_in_a_row_all_end_well(
    debian: Image, tmp_path: Path, num_cpus: int, is_realm: bool
) -> None:
    """Each reaches the shell, uses its disk, and leaves nothing behind."""
    disk = copy_disk(debian, tmp_path)
    options = VmOptions(
        kernel=debian.kernel,
        initrd=debian.initrd,
        disks=(DiskOptions(disk),),
        num_cpus=num_cpus,
        is_realm=is_realm,
    )
    answers, times = set(), []
    before = holdings()
    for number in range(NUM_SOAK_BOOTS):
        start = time.process_time()
        with Inside(options) as guest:
            guest.shell.log_in()
            answers.add(guest.shell.run("uname -a; nproc; sha256sum /usr/bin/bash"))
            assert guest.shell.run(f"echo {number} >>/root/boots").status == 0
            guest.shell.type("poweroff -f\n")
            assert guest.wait() is ExitCode.OK
            assert guest.platform.leak_check() == []
        del guest
        assert settled(before) == before
        times.append(time.process_time() - start)
    assert len(answers) == 1
    assert is_clean(disk)
    assert read_from(disk, "/root/boots").split() == [str(n) for n in range(NUM_SOAK_BOOTS)]
    assert max(times) < 3 * min(times), times
