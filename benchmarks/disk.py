"""A guest's disk: sequential and random direct transfers, in a VM, in a realm, and under QEMU."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import platformdirs

from benchmarks.boot import GUEST, MEMORY, PYVMM, QEMU
from benchmarks.result import Result
from pyvmm.vm.images.debian import Image, Recipe, build_debian
from tests.boot.shell import Piped

SIZE = 256 << 20
NUM_ROUNDS = 3
SECONDS = 2
FIO = (
    "cd /run && fio --name=job --filename=/dev/vda --direct=1 --ioengine=psync --time_based"
    f" --runtime={SECONDS} --size={SIZE} --output-format=json"
)
#: Name, fio's options, the highest time per request relative to QEMU's.
WORK = (
    ("disk-read-1m", "--rw=read --bs=1M", 1.0),
    ("disk-write-1m", "--rw=write --bs=1M", 1.0),
    ("disk-read-4k", "--rw=randread --bs=4k", 0.5),
    ("disk-write-4k", "--rw=randwrite --bs=4k", 0.5),
)


class _Rate(msgspec.Struct):
    iops: float


class _Job(msgspec.Struct):
    read: _Rate
    write: _Rate


class _Report(msgspec.Struct):
    jobs: list[_Job]


def commands(image: Image, disks: Sequence[Path]) -> dict[str, list[str]]:
    """Return the commands that boot the same guest: in a VM, in a realm, and under QEMU."""
    files = ["--kernel", str(image.kernel), "--initrd", str(image.initrd), "-m", MEMORY]
    root = ["--disk", f"{image.rootfs},ro", "-p", "root=/dev/vdb ro console=ttyS0"]
    ours = [PYVMM, "run", *files]
    found = {
        "vm": [*ours, "--disk", str(disks[0]), *root],
        "realm": [*ours, "--realm", "--no-hes", "--disk", str(disks[1]), *root],
    }
    if shutil.which(QEMU) is not None:
        found["qemu"] = qemu(image, disks[2])
    return found


def qemu(image: Image, disk: Path) -> list[str]:
    """Return QEMU's command; its first device is the guest's last disk."""
    command = [QEMU, "-M", "virt", "-cpu", "cortex-a76", "-m", MEMORY, "-nographic", "-net", "none"]
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    command += ["-append", "console=ttyAMA0 root=/dev/vdb ro"]
    command += ["-global", "virtio-mmio.force-legacy=false"]
    for name, path in (("root", f"{image.rootfs},readonly=on"), ("work", str(disk))):
        command += ["-drive", f"file={path},if=none,format=raw,id={name}"]
        command += ["-device", f"virtio-blk-device,drive={name}"]
    return command


def microseconds(guest: Piped, options: str) -> float:
    """Return the time per request in a guest."""
    answer = guest.shell.run(f"{FIO} {options} 2>&1").output
    (job,) = msgspec.json.decode(answer[answer.index("{") :], type=_Report).jobs
    return 1e6 / max(job.read.iops, job.write.iops)


def disk() -> Iterator[Result]:
    """Direct requests of 1 MiB and 4 KiB, one at a time: the fastest of some rounds, in turn."""
    guest = Path(f"{GUEST}-fio")
    cache = platformdirs.user_cache_path("pyvmm")
    recipe = Recipe(packages=("fio",))
    image = build_debian(guest, cache, lambda _what, _percent: None, recipe=recipe)
    with tempfile.TemporaryDirectory(dir=guest) as directory, ExitStack() as guests:
        disks = [Path(directory) / str(number) for number in range(3)]
        for path in disks:
            path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
        running = {
            name: guests.enter_context(Piped(*command))
            for name, command in commands(image, disks).items()
        }
        for each in running.values():
            each.shell.log_in()
            each.shell.run("mount -t tmpfs none /run")
        for name, options, goal in WORK:
            rounds = [
                {kind: microseconds(each, options) for kind, each in running.items()}
                for _ in range(NUM_ROUNDS)
            ]
            best = {kind: min(times[kind] for times in rounds) for kind in running}
            yield Result(name, best["vm"], "µs", peer=best.get("qemu"), goal_ratio=goal)
            yield Result(f"{name}-realm", best["realm"], "µs", goal=best["vm"] / 0.7)
