"""Debian's guest, saved at its shell and restored as often as one likes."""

import shutil
import socket
from pathlib import Path

import pytest

from pyvmm.arch.pmu import PmuEvent
from pyvmm.devices import libslirp
from pyvmm.platform import Platform
from pyvmm.vm.control.instance import Instance
from pyvmm.vm.exit_code import ExitCode
from pyvmm.vm.images.debian import Image
from pyvmm.vm.machine.boot import make_empty_config
from pyvmm.vm.network_options import NetworkOptions
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions, read_options
from pyvmm.vm.port_options import PortOptions
from pyvmm.vm.snapshot import Snapshot, new_file
from tests.boot.command import copy_disk, is_clean, read_from
from tests.boot.counters import AROUND, LOOP_SIZE, ROUNDS, counters_program
from tests.boot.inside import Inside
from tests.boot.server import served_files
from tests.waiting import wait_until

pytestmark = pytest.mark.boot

PATIENCE = 180.0
HAS_NETWORK = bool(shutil.which("passt")) or libslirp.is_installed()


def answer(instance: Instance, command: str) -> str:
    """Type a command into the shell, and return its output."""
    log = instance.console_log
    before = log.end
    instance.type(f"{command}; echo '<'end'>'\n".encode())
    wait_until(lambda: b"<end>" in log.read(before, lambda: True)[1], PATIENCE)
    output = log.read(before, lambda: True)[1].decode().replace("\r\n", "\n")
    return output.partition("<end>")[0].strip()


#: Finds a port by its name, and opens it as descriptor 5.
OPEN_PORT = (
    "for p in /sys/class/virtio-ports/*; do"
    " [ $(cat $p/name) = host ] && exec 5<>/dev/${p##*/}; done; :"
)


@pytest.mark.parametrize(
    ("num_cpus", "machine", "transport"),
    [(1, "kvmtool", "mmio"), (2, "virt", "pci")],
    ids=["kvmtool", "virt"],
)
def test_debian_is_restored_at_its_shell(
    debian: Image, tmp_path: Path, num_cpus: int, machine: str, transport: str
) -> None:
    """With its processes, its memory and its disk; time and timers continue."""
    disk, saved = copy_disk(debian, tmp_path), tmp_path / "saved"
    options = VmOptions(
        kernel=debian.kernel,
        initrd=debian.initrd,
        disks=(DiskOptions(disk),),
        num_cpus=num_cpus,
        has_rng=True,
        has_balloon=True,
        has_watchdog=True,
        has_pmu=True,
        networks=(NetworkOptions(),) if HAS_NETWORK else (),
        ports=(PortOptions("host", tmp_path / "before"),),
        machine=machine,
        transport=transport,
    )
    with Inside(options) as guest:
        guest.shell.log_in()
        guest.shell.store("count", counters_program([PmuEvent.INST_RETIRED]))
        set_up = "echo kept >/dev/shm/file; echo disk >/root/file; nproc; sleep 1000 & sync"
        assert guest.shell.run(set_up).output.startswith(str(num_cpus))
        assert guest.shell.run(OPEN_PORT).status == 0
        guest.instance.pause()
        with new_file(saved) as file:
            guest.instance.save(file)
        guest.instance.quit()
        assert guest.wait() is ExitCode.QUIT
    for number in range(2):
        copy = tmp_path / f"copy{number}"
        shutil.copy2(disk, copy)  # with its time of change
        source = Snapshot(saved)
        end = tmp_path / f"port{number}"
        given = {
            "disks": (str(copy),),
            "networks": ("mode=user",) * HAS_NETWORK,
            "ports": (f"host={end}",),
        }
        asked = read_options({"restore": saved, **given}, is_run=True)
        vm = source.options(asked)
        platform = Platform(vm.ram_size, vm.num_cpus, features=vm.cpu_features, engine=vm.engine)
        instance = Instance(vm, make_empty_config(vm), platform, snapshot=source)
        try:
            instance.build()
            instance.start()
            kept = answer(instance, "cat /dev/shm/file /root/file; nproc")
            assert kept == f"kept\ndisk\n{num_cpus}"
            assert answer(instance, "pgrep -c sleep; sleep 1") == "1"
            load = answer(instance, "(for i in 1 2 3; do sha256sum /usr/bin/bash & done; wait)")
            assert len({line for line in load.splitlines() if line.endswith("/usr/bin/bash")}) == 1
            counted = int(answer(instance, "./count | od -A n -t d8"))
            assert 0 <= counted - LOOP_SIZE * ROUNDS <= AROUND
            with socket.socket(socket.AF_UNIX) as program:
                program.connect(str(end))
                program.sendall(b"hello\n")
                assert answer(instance, "head -n 1 <&5; echo bye >&5") == "hello"
                assert program.recv(4) == b"bye\n"
            if HAS_NETWORK:
                with served_files({"file": b"from the host"}) as port:
                    fetched = answer(instance, f"curl -sS http://192.168.33.1:{port}/file")
                assert fetched == "from the host"
            write = f"echo {number} >/root/number; head -c 8 /dev/hwrng | wc -c"
            assert answer(instance, write) == "8"
            assert instance.board.balloon is not None
            assert instance.board.balloon.ask(PATIENCE)["total_memory"] > 0
            assert instance.board.button is not None
            instance.board.button.press()
            assert instance.wait(PATIENCE) is ExitCode.OK
        finally:
            instance.close()
        assert is_clean(copy)
        assert read_from(copy, "/root/number") == f"{number}\n"
