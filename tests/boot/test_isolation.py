"""The private memory of a realm, checked from outside while it runs."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.arch.pas import GRANULE_SIZE, GranuleProtectionFault, Pas
from pyvmm.devices.dma import DmaFault
from pyvmm.vm import memory_map
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.memory_map import MIB, RAM_BASE
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.boot.command import is_clean, read_from
from tests.boot.dma_guest import PATTERN, dma_guest
from tests.boot.inside import Inside, run_inside
from tests.boot.shell import Shell

NUM_CPUS = 2
CHUNK = MIB


@pytest.fixture(scope="module", params=["1.0", "2.0"])
def realm(request: pytest.FixtureRequest, debian: Image, disk: Path) -> Iterator[Inside]:
    """Boot Debian in a realm in this process, once per revision of RMI for all tests here."""
    options = VmOptions(
        kernel=debian.kernel,
        initrd=debian.initrd,
        disks=(DiskOptions(disk),),
        num_cpus=NUM_CPUS,
        is_realm=True,
        rmi=request.param,
    )
    with Inside(options) as guest:
        guest.shell.log_in()
        yield guest


@pytest.fixture
def shell(realm: Inside) -> Shell:
    """Return the realm's shell."""
    return realm.shell


def occurrences(fd: int, needle: bytes) -> int:
    """Count a text in the content of a sparse file."""
    count, position, size = 0, 0, os.fstat(fd).st_size
    while position < size:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # nothing but holes from here on
            return count
        end = os.lseek(fd, position, os.SEEK_HOLE)
        for start in range(position, end, CHUNK):
            count += os.pread(fd, min(CHUNK, end - start) + len(needle) - 1, start).count(needle)
        position = end
    return count


@pytest.mark.boot
def test_linux_finds_the_rmm(shell: Shell) -> None:
    """It logs the RSI version and the bounce buffers."""
    log = shell.run("dmesg --color=never").output
    assert "RME: Using RSI version 1.0" in log
    assert "Memory encryption is active and system is using DMA bounce buffers" in log
    assert shell.run("nproc").output == str(NUM_CPUS)


@pytest.mark.boot
def test_host_can_touch_no_granule_of_the_realm(realm: Inside) -> None:
    """Reading, writing and mapping fault, for every granule."""
    granules = realm.platform.leak_check()
    assert len(granules) * GRANULE_SIZE > 64 * MIB  # Linux and what it uses
    ns = realm.platform.machine.memory(Pas.NS)
    for pa in granules:
        for access in (
            lambda pa=pa: ns.read(pa, 1),
            lambda pa=pa: ns.write(pa + GRANULE_SIZE - 1, b"x"),
            lambda pa=pa: ns.view(pa, GRANULE_SIZE),
        ):
            with pytest.raises(GranuleProtectionFault):
                access()


@pytest.mark.boot
def test_devices_reach_what_the_realm_shares_and_nothing_else(realm: Inside) -> None:
    """A device's access fails for exactly the realm's private pages."""
    dma = realm.instance.board.dma
    reached = 0
    for addr in range(RAM_BASE, RAM_BASE + 512 * MIB, GRANULE_SIZE):
        try:
            reached += len(dma.view(addr, GRANULE_SIZE))
        except DmaFault:
            continue
    assert 0 < reached < 128 * MIB


@pytest.mark.boot
def test_secret_stays_in_realm_memory(realm: Inside) -> None:
    """The realm generates it, and the console never shows it; disk data is not protected."""
    seed = secrets.token_hex(16)
    secret, public = (hashlib.sha256(f"{seed} {kind}".encode()).hexdigest() for kind in "sp")
    make = f"make() {{ printf '%s %s' {seed} $1 | sha256sum | cut -c-64; }}"
    assert realm.shell.run(f"{make}; secret=$(make s); echo $secret >/tmp/secret").status == 0
    assert realm.shell.run("make p >/root/public; sync").status == 0
    memfd = realm.platform.machine.memfd
    found = {pas: occurrences(memfd(pas), secret.encode()) for pas in Pas}
    assert found.pop(Pas.REALM) > 0
    assert not any(found.values()), found
    assert occurrences(memfd(Pas.NS), public.encode()) > 0
    assert realm.shell.run("echo $secret").output == secret  # it was that indeed


@pytest.mark.boot
def test_everything_is_given_back(realm: Inside, disk: Path) -> None:
    """After power-off, its file is on the disk, and every granule is Non-secure again."""
    answer = realm.shell.run("sha256sum </etc/passwd >/root/sum; seq 20000 >/root/numbers")
    assert answer.status == 0
    realm.shell.type("poweroff -f\n")
    assert realm.wait() is ExitCode.OK
    assert realm.platform.leak_check() == []
    assert is_clean(disk)
    assert read_from(disk, "/root/numbers") == "".join(f"{n}\n" for n in range(1, 20_001))
    passwd = read_from(disk, "/etc/passwd").encode()
    assert read_from(disk, "/root/sum").split()[0] == hashlib.sha256(passwd).hexdigest()
    assert occurrences(realm.platform.machine.memfd(Pas.REALM), b"Linux version") == 0


def test_descriptor_to_a_protected_page_moves_no_byte(tmp_path: Path) -> None:
    """Neither the page nor the disk's sectors change."""
    sector = bytes(range(256)) * 2
    disk, kernel = tmp_path / "disk", tmp_path / "kernel"
    disk.write_bytes(bytes(512) + sector + bytes(7 * 512))
    kernel.write_bytes(dma_guest())
    before = disk.read_bytes()
    options = VmOptions(
        kernel=kernel,
        disks=(DiskOptions(disk),),
        ram_size=memory_map.MIN_RAM_SIZE * 4,
        is_realm=True,
    )
    code, output = run_inside(options)
    assert code is ExitCode.OK, output
    ripas, *words = (int(word, 16) for word in output.split())
    shared, into_protected, from_protected = (words[at : at + 3] for at in range(0, 9, 3))
    assert ripas == 0
    assert shared == [int.from_bytes(sector[:8], "little"), 0, 1]
    for data, status, _ in (into_protected, from_protected):
        assert data == PATTERN
        assert status != 0
    assert disk.read_bytes() == before
