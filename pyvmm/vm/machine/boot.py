"""The payload of a guest: kernel, initial RAM disk and device tree, each at its place in RAM."""

import os
from pathlib import Path

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import read_file, write_file
from pyvmm.host.guest import GuestConfig, RomRegion, Segment
from pyvmm.vm import guests, memory_map
from pyvmm.vm.images.firmware import read_firmware
from pyvmm.vm.images.loader import Kernel, load_flat, load_kernel, read_payload
from pyvmm.vm.machine.plan import device_plan
from pyvmm.vm.memory_map import KVMTOOL, MIB, Placement
from pyvmm.vm.options import VmOptions

_FDT_MAGIC = b"\xd0\x0d\xfe\xed"


def make_config(options: VmOptions) -> GuestConfig:
    """Read everything that is in the guest's memory at its start, and lay it out.

    Raises:
        UserError: a file is invalid, or the payload does not fit.
    """
    if options.firmware is not None:
        return _make_firmware_config(options, options.firmware)
    kernel, ram_base = _load_kernel(options), options.layout.machine.ram_base
    initrd = read_payload(options.initrd, "initrd", options.ram_size) if options.initrd else b""
    placement = memory_map.place(options.ram_size, len(initrd), ram_base + kernel.end, ram_base)
    if placement is None:
        needed = kernel.end + len(initrd)
        raise UserError(
            f"kernel and initrd need {needed // MIB + 4} MiB and do not fit below the device tree"
            f" in {options.ram_size // MIB} MiB of guest memory: give more with -m"
        )
    segments = [Segment(ram_base + offset, data, "kernel") for offset, data in kernel.segments]
    if initrd:
        segments.append(Segment(placement.initrd, initrd, "initrd"))
    if options.dtb is None:
        _check_parameters(options, kernel)
    dtb = _dtb(options, placement, len(initrd))
    segments.append(Segment(placement.dtb, dtb, "device tree"))
    return GuestConfig(
        num_cpus=options.num_cpus,
        ram_base=ram_base,
        ram_size=options.ram_size,
        segments=tuple(segments),
        entry=ram_base + kernel.entry,
        args=(placement.dtb, 0, 0, 0),
        num_counters=options.num_counters if options.has_pmu else 0,
        stolen_time=None if options.owns_machine else options.layout.machine.pv_time_base,
        owns_machine=options.owns_machine,
        has_el2=options.is_el2,
    )


def _make_firmware_config(options: VmOptions, firmware: Path) -> GuestConfig:
    """Lay out a guest that starts in its flash, with the device tree at the start of RAM."""
    machine = options.layout.machine
    data = read_firmware(firmware, memory_map.FLASH_BANK)
    start = machine.flash.base if machine.flash is not None else 0
    banks = (start, start + memory_map.FLASH_BANK)
    dtb = _dtb(options, Placement(machine.ram_base, 0), 0)
    return GuestConfig(
        num_cpus=options.num_cpus,
        ram_base=machine.ram_base,
        ram_size=options.ram_size,
        segments=(Segment(machine.ram_base, dtb, "device tree"),),
        entry=start,
        stolen_time=machine.pv_time_base,
        roms=[
            RomRegion(base, memory_map.FLASH_BANK, content)
            for base, content in zip(banks, (data, b""), strict=True)
        ],
    )


def make_empty_config(options: VmOptions) -> GuestConfig:
    """Return a guest without a payload: a snapshot has what is in its memory."""
    machine = options.layout.machine
    return GuestConfig(
        num_cpus=options.num_cpus,
        ram_base=machine.ram_base,
        ram_size=options.ram_size,
        segments=(),
        entry=machine.ram_base,
        num_counters=options.num_counters if options.has_pmu else 0,
        stolen_time=machine.pv_time_base,
    )


def _load_kernel(options: VmOptions) -> Kernel:
    machine = options.layout.machine
    if options.kernel is not None:
        return load_kernel(options.kernel, options.ram_size, machine.ram_base)
    if machine is not KVMTOOL:
        raise UserError(
            f"--machine {machine.name} has no built-in guest: give a kernel with -k, or --firmware"
        )
    return load_flat(guests.hello(), "the built-in guest")


def _check_parameters(options: VmOptions, kernel: Kernel) -> None:
    size, limit = len(os.fsencode(options.bootargs)), kernel.max_parameters
    if limit is not None and size > limit:
        added = size - len(os.fsencode(options.params or ""))
        defaults = f", {added} of them default parameters (--nodefaults omits them)"
        raise UserError(
            f"the kernel parameters have {size} bytes{defaults if added else ''}; Linux's limit is"
            f" {limit}: give fewer with -p"
        )


def _dtb(options: VmOptions, placement: Placement, initrd_size: int) -> bytes:
    """Return the user's device tree or ours, padded to the reserved size.

    Write it to the file of --dump-dtb, if that is given.
    """
    blob = _read_dtb(options.dtb) if options.dtb else _build_dtb(options, placement, initrd_size)
    blob = blob.ljust(memory_map.DTB_SIZE, b"\0")
    if options.dump_dtb is not None:
        try:
            write_file(options.dump_dtb, blob)
        except OSError as error:
            raise UserError(f"--dump-dtb {options.dump_dtb}: {error.strerror}") from None
    return blob


def _read_dtb(path: Path) -> bytes:
    blob = read_file(path, "device tree", memory_map.DTB_SIZE)
    if not blob.startswith(_FDT_MAGIC) or int.from_bytes(blob[4:8]) > len(blob):
        raise UserError(f"{path} is not a device tree: give the output of dtc -O dtb or --dump-dtb")
    return blob


def _build_dtb(options: VmOptions, placement: Placement, initrd_size: int) -> bytes:
    from pyvmm.vm.machine.device_tree import Description, build_fdt  # noqa: PLC0415  libfdt only where needed

    span = (placement.initrd, placement.initrd + initrd_size) if initrd_size else None
    return build_fdt(
        Description(
            map=options.layout,
            bootargs=options.bootargs,
            initrd=span,
            devices=device_plan(options),
            has_its=options.has_its,
            has_pmu=options.has_pmu,
            uses_smc=options.owns_machine or options.realm is not None,
            has_el2=options.is_el2,
        )
    )
