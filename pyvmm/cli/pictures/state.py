"""Realms, RECs, PEs, interrupts, timers and queues as text."""

from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from pyvmm.arch.pictures import (
    GicPicture,
    PePicture,
    QueuePicture,
    RecordPicture,
    TimerPicture,
)
from pyvmm.cli.pictures.canvas import DIM, HEADING, line, style_of


def record_lines(kind: str, pictures: Sequence[RecordPicture]) -> Iterator[Text]:
    """Yield the fields of realms or RECs."""
    if not pictures:
        yield Text(f"no {kind} exists")
    for picture in pictures:
        yield line((f"{kind} ", HEADING), picture.address)
        width = max(map(len, picture.fields))
        for name, value in picture.fields.items():
            yield line(f"  {name:<{width}}  {value}")


def pe_lines(pictures: Sequence[PePicture]) -> Iterator[Text]:
    """Yield the registers of each PE."""
    for picture in pictures:
        world = (picture.world, style_of(picture.world))
        yield line((f"PE {picture.index} ", HEADING), world, f" {picture.pstate}")
        yield from _columns(picture.registers, 4)
        yield Text("  EL1", HEADING)
        yield from _columns(picture.system, 3)
        yield Text("  EL2", HEADING)
        for name, value in picture.controls.items():
            yield line(f"  {name:<14} {value}")
        if picture.pmu:
            yield Text("  PMU", HEADING)
        for name, value in picture.pmu.items():
            yield line(f"  {name:<14} {value}")


def _columns(pairs: Mapping[str, str], count: int) -> Iterator[Text]:
    width = max(map(len, pairs))
    cells = [f"{name:>{width}} {value[2:]}" for name, value in pairs.items()]
    for start in range(0, len(cells), count):
        yield Text("  " + "  ".join(cells[start : start + count]))


def gic_lines(pictures: Sequence[GicPicture]) -> Iterator[Text]:
    """Yield the virtual CPU interface of each PE."""
    for picture in pictures:
        yield Text(f"PE {picture.index}", HEADING)
        for name, value in picture.controls.items():
            yield line(f"  {name:<13} {value}")
        for each in picture.list_registers:
            what = f"INTID {each.intid} ({each.name}), {each.state}, priority {each.priority:#x}"
            yield line(f"  {each.register:<13} {what}, group {each.group}")
        if not picture.list_registers:
            yield Text("  no list register is in use", DIM)


def timer_lines(pictures: Sequence[TimerPicture]) -> Iterator[Text]:
    """Yield the timers of each PE."""
    for each in pictures:
        state = "enabled" if each.is_enabled else "disabled"
        state += ", masked" if each.is_masked else ""
        state += ", asserted" if each.is_asserted else ""
        when = f"due in {each.due:.6f} s" if each.due > 0 else f"due since {-each.due:.6f} s"
        name = f"PE {each.index} {each.name} timer"
        when = when if each.is_enabled else "not armed"
        numbers = f"compare {each.compare}, counter {each.counter}"
        yield line((f"{name:<22}", HEADING), f" {state}; {numbers}, {when}")


def queue_lines(pictures: Sequence[QueuePicture]) -> Iterator[Text]:
    """Yield each virtqueue and the chains that wait in it."""
    if not pictures:
        yield Text("no virtio device exists")
    for each in pictures:
        state = "" if each.is_ready else " (not ready)"
        counts = f"{state}: {each.size} entries, {each.waiting} waiting"
        places = f"descriptors {each.descriptors}, available {each.available}, used {each.used}"
        yield line((f"{each.device} queue {each.index}", HEADING), f"{counts}; {places}")
        for chain in each.chains:
            yield line(f"  {chain}")
