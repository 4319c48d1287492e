"""The ITS and LPIs: what the commands, the registers and the tables do."""

from threading import Thread
from time import monotonic, sleep

import pytest

from pyvmm.arch import gic, its
from pyvmm.arch.errors import RepeatAccess
from pyvmm.arch.its import BASER, CBASER, ItsCommand
from pyvmm.arch.saved import State, StateError, part
from pyvmm.host.vgic import NO_LRS
from pyvmm.host.vgic_mmio import Distributor
from tests.host.its_driver import (
    COLLECTIONS,
    CONFIG,
    DEVICE,
    DEVICES,
    ITTS,
    LPI,
    PENDING,
    QUEUE,
    VALID,
    ItsBoard,
)

PATIENCE = 30.0  # seconds


@pytest.fixture
def board() -> ItsBoard:
    """Two CPUs, and a device with 32 events, of which 0 is LPI 8192 at CPU 0."""
    board = ItsBoard().start()
    board.map_device()
    board.map(0, LPI)
    return board


def test_registers_say_what_linux_needs() -> None:
    """Distributor and redistributors know LPIs; the ITS has physical ones and two tables."""
    board = ItsBoard()
    typer = Distributor(board.vgic).read(gic.GICD_TYPER, 4)
    assert (typer >> 17 & 1, typer >> 19 & 0x1F) == (1, gic.LPI_ID_BITS - 1)
    assert board.gicrs[0].read(gic.GICR_TYPER, 8) & gic.GICR_TYPER_PLPIS
    assert board.gicrs[0].read(gic.GICR_CTLR, 4) == gic.GICR_CTLR_CES | gic.GICR_CTLR_IR
    assert board.its.read(gic.GIC_PIDR2, 4) & 0xF0 == 0x30
    assert board.its.read(its.GITS_CTLR, 4) == its.GITS_CTLR_QUIESCENT
    features = its.TYPER(board.its.read(its.GITS_TYPER, 8))
    assert (features.PHYSICAL, features.ITT_ENTRY_SIZE, features.ID_BITS) == (True, 7, 15)
    board.its.write(its.GITS_BASER, 8, (1 << 64) - 1)
    tables = [BASER(board.its.read(its.GITS_BASER + 8 * n, 8)) for n in range(8)]
    assert [table.TYPE for table in tables] == [1, 4, 0, 0, 0, 0, 0, 0]
    assert (tables[0].PAGE_SIZE, tables[0].ENTRY_SIZE, tables[0] >> 62 & 1) == (0, 7, 0)
    board.its.write(its.GITS_CBASER + 4, 4, 0x8000_0000)
    assert board.its.read(its.GITS_CBASER + 4, 4) == 0x8000_0000


def test_message_becomes_an_lpi(board: ItsBoard) -> None:
    """It is a group 1 interrupt with the priority of its table, once per message."""
    board.its.signal(DEVICE, 0)
    (lr, *_) = board.vgic.load_lrs(0)
    assert lr == LPI | 0xA0 << 48 | gic.ICH_LR_GROUP1 | gic.ICH_LR_PENDING
    board.vgic.sync_lrs(0, NO_LRS)
    assert board.listed() == []


def test_message_is_lost_without_a_mapping(board: ItsBoard) -> None:
    """The device, the event or the collection is unknown, or the event is too large."""
    board.command(ItsCommand.MAPTI, DEVICE, 1 | LPI + 1 << 32, 7)
    for device, event in ((DEVICE, 2), (DEVICE + 1, 0), (DEVICE, 1), (DEVICE, 32), (1 << 31, 0)):
        board.its.signal(device, event)
    assert board.listed() == []
    board.its.write(its.GITS_CTLR, 4, 0)
    board.its.signal(DEVICE, 0)
    assert board.listed() == []


def test_cpu_that_runs_is_kicked_once(board: ItsBoard) -> None:
    """Another message before the CPU leaves does not kick it again."""
    board.vgic.load_lrs(0)
    board.its.signal(DEVICE, 0)
    board.its.signal(DEVICE, 0)
    assert board.kicks == [0]


def test_message_during_the_handler_is_not_lost(board: ItsBoard) -> None:
    """It comes while a list register has the LPI: the CPU gets it again."""
    board.its.signal(DEVICE, 0)
    board.vgic.load_lrs(0)
    board.its.signal(DEVICE, 0)
    assert board.kicks == [0]
    board.vgic.sync_lrs(0, NO_LRS)
    assert board.take() == [LPI]
    assert board.take() == []


def test_lpis_come_by_priority(board: ItsBoard) -> None:
    """Six are pending; the list registers have the four most urgent."""
    for event in range(6):
        board.map(event, LPI + event, priority=0xA0 - 0x10 * event)
        board.its.signal(DEVICE, event)
    assert board.take() == [LPI + 5, LPI + 4, LPI + 3, LPI + 2]
    assert board.vgic.hcr(0) == gic.ICH_HCR_UIE
    assert board.take() == [LPI + 1, LPI]


def test_group_1_must_be_enabled(board: ItsBoard) -> None:
    """LPIs are of group 1."""
    board.its.signal(DEVICE, 0)
    Distributor(board.vgic).write(gic.GICD_CTLR, 4, gic.GICD_CTLR_GRP0)
    assert board.listed() == []
    Distributor(board.vgic).write(gic.GICD_CTLR, 4, gic.GICD_CTLR_GRP1)
    assert board.listed() == [LPI]


@pytest.mark.parametrize("how", ["INV", "INVALL", "INVLPIR", "INVALLR"])
def test_configuration_counts_when_it_is_invalidated(board: ItsBoard, how: str) -> None:
    """A disabled LPI stays pending, and comes when it is enabled."""

    def invalidate() -> None:
        match how:
            case "INV":
                board.command(ItsCommand.INV, DEVICE, 0)
            case "INVALL":
                board.command(ItsCommand.INVALL, third=0)
            case "INVLPIR":
                board.gicrs[0].write(gic.GICR_INVLPIR, 8, LPI)
            case _:
                board.gicrs[0].write(gic.GICR_INVALLR, 8, 0)
        assert board.gicrs[0].read(gic.GICR_SYNCR, 4) == 0

    board.configure(LPI, 0xA0)
    board.its.signal(DEVICE, 0)
    assert board.listed() == [LPI]
    invalidate()
    assert board.listed() == []
    board.vgic.load_lrs(0)
    board.configure(LPI, 0xA0 | gic.LPI_ENABLED)
    invalidate()
    assert board.kicks == [0]
    board.vgic.sync_lrs(0, NO_LRS)
    assert board.listed() == [LPI]


def test_int_and_clear_set_and_clear_the_pending_state(board: ItsBoard) -> None:
    """As if the device had signalled the event; DISCARD clears it, too, and ends the mapping."""
    board.command(ItsCommand.INT, DEVICE, 0)
    assert board.listed() == [LPI]
    board.command(ItsCommand.CLEAR, DEVICE, 0)
    assert board.listed() == []
    board.command(ItsCommand.INT, DEVICE, 0)
    board.command(ItsCommand.DISCARD, DEVICE, 0)
    assert board.listed() == []
    board.command(ItsCommand.INT, DEVICE, 0)
    assert board.listed() == []


def test_mapi_uses_the_event_as_the_lpi() -> None:
    """So the event must be an LPI's number."""
    board = ItsBoard().start()
    board.map_device(event_bits=14)
    board.configure(LPI + 1, gic.LPI_ENABLED)
    board.command(ItsCommand.MAPI, DEVICE, LPI + 1, 0)
    board.command(ItsCommand.MAPI, DEVICE, LPI - 1, 0)
    board.its.signal(DEVICE, LPI + 1)
    board.its.signal(DEVICE, LPI - 1)
    assert board.listed() == [LPI + 1]


def test_mapd_takes_a_device_away(board: ItsBoard) -> None:
    """Its events are lost afterwards."""
    board.its.signal(DEVICE, 0)
    assert board.take() == [LPI]
    board.command(ItsCommand.MAPD, DEVICE)
    board.its.signal(DEVICE, 0)
    assert board.listed() == []


def test_mapc_sends_a_collection_to_another_cpu(board: ItsBoard) -> None:
    """Events come there; a CPU that does not exist changes nothing; without V, they are lost."""
    board.its.signal(DEVICE, 0)
    assert (board.take(0), board.listed(1)) == ([LPI], [])
    board.command(ItsCommand.MAPC, third=VALID | 1 << 16)
    board.its.signal(DEVICE, 0)
    assert (board.listed(0), board.take(1)) == ([], [LPI])
    board.command(ItsCommand.MAPC, third=VALID | 2 << 16)
    board.its.signal(DEVICE, 0)
    assert board.take(1) == [LPI]
    board.command(ItsCommand.MAPC, third=0)
    board.its.signal(DEVICE, 0)
    assert (board.listed(0), board.listed(1)) == ([], [])


def test_movi_changes_the_affinity(board: ItsBoard) -> None:
    """What is pending moves; later messages come to the new CPU."""
    board.its.signal(DEVICE, 0)
    board.command(ItsCommand.MOVI, DEVICE, 0, 1)
    assert (board.listed(0), board.take(1)) == ([], [LPI])
    board.its.signal(DEVICE, 0)
    assert (board.listed(0), board.take(1)) == ([], [LPI])


@pytest.mark.parametrize(("targets", "expected"), [((1,), 1), ((1, 0), 0), ((1, 2), 2)])
def test_movi_takes_an_lpi_from_a_list_register(targets: tuple[int, ...], expected: int) -> None:
    """The CPU that has it is kicked, and gives it to the last target when it leaves."""
    board = ItsBoard(3).start()
    board.map_device()
    board.map(0, LPI)
    board.its.signal(DEVICE, 0)
    lrs = board.vgic.load_lrs(0)
    for target in targets:
        board.command(ItsCommand.MOVI, DEVICE, 0, target)
    assert board.kicks == [0]
    board.vgic.sync_lrs(0, lrs)
    assert [cpu for cpu in range(3) if board.take(cpu)] == [expected]


@pytest.mark.parametrize("kind", [ItsCommand.MOVI, ItsCommand.CLEAR])
def test_lpi_that_was_taken_meanwhile_does_not_come_back(board: ItsBoard, kind: int) -> None:
    """The CPU has acknowledged it before it leaves."""
    board.its.signal(DEVICE, 0)
    board.vgic.load_lrs(0)
    board.command(kind, DEVICE, 0, 1)
    board.vgic.sync_lrs(0, NO_LRS)
    assert (board.listed(0), board.listed(1)) == ([], [])


def test_clear_takes_an_lpi_from_a_list_register(board: ItsBoard) -> None:
    """It is gone when the CPU leaves, unless it is signalled again."""
    for is_again in (False, True):
        board.its.signal(DEVICE, 0)
        lrs = board.vgic.load_lrs(0)
        board.command(ItsCommand.CLEAR, DEVICE, 0)
        board.vgic.sync_lrs(0, lrs)
        if is_again:
            board.its.signal(DEVICE, 0)
        assert board.take() == [LPI] * is_again


def test_movall_moves_what_is_pending(board: ItsBoard) -> None:
    """Listed or not; the mappings stay, and the same CPU changes nothing."""
    for event in range(6):
        board.map(event, LPI + event)
        board.its.signal(DEVICE, event)
    board.command(ItsCommand.MOVALL, third=0, last=0)
    lrs = board.vgic.load_lrs(0)
    board.command(ItsCommand.MOVALL, third=0, last=1 << 16)
    board.vgic.sync_lrs(0, lrs)
    assert board.listed(0) == []
    assert sorted(board.take(1) + board.take(1)) == [LPI + event for event in range(6)]
    board.its.signal(DEVICE, 0)
    assert (board.take(0), board.take(1)) == ([LPI], [])


def test_pending_table_is_read_and_written_with_enable_lpis() -> None:
    """A bit set there is a pending LPI, unless PTZ says that the table is zero."""
    board = ItsBoard()
    board.give_tables()
    board.configure(LPI + 9, gic.LPI_ENABLED)
    for cpu in (0, 1):
        board.memory.write(PENDING + 0x1_0000 * cpu + (LPI + 9) // 8, b"\x02")
    board.enable_lpis(0)
    assert board.listed(0) == [LPI + 9]
    board.gicrs[1].write(gic.GICR_PENDBASER, 8, PENDING + 0x1_0000 | gic.PENDBASER.PTZ.mask)
    board.gicrs[1].write(gic.GICR_CTLR, 4, gic.GICR_CTLR_ENABLE_LPIS)
    assert board.listed(1) == []
    board.memory.write(PENDING + (LPI + 9) // 8, b"\0")
    board.gicrs[0].write(gic.GICR_CTLR, 4, 0)
    assert (board.pending_byte(0, LPI + 9), board.listed(0)) == (2, [])
    board.enable_lpis(0)
    assert board.take(0) == [LPI + 9]


def test_cpu_without_lpis_gets_none(board: ItsBoard) -> None:
    """Neither messages nor moves arrive; the tables can be changed only then."""
    board.enable_lpis(1, is_enabled=False)
    board.its.signal(DEVICE, 0)
    board.command(ItsCommand.MOVI, DEVICE, 0, 1)
    board.its.signal(DEVICE, 0)
    assert (board.listed(0), board.listed(1)) == ([], [])
    board.gicrs[0].write(gic.GICR_PROPBASER, 8, 0)
    board.gicrs[0].write(gic.GICR_PENDBASER, 8, 0)
    assert board.gicrs[0].read(gic.GICR_PROPBASER, 8) == CONFIG | gic.LPI_ID_BITS - 1
    assert board.gicrs[0].read(gic.GICR_PENDBASER + 4, 4) == PENDING >> 32
    board.gicrs[1].write(gic.GICR_PENDBASER + 4, 4, 1)
    assert board.gicrs[1].read(gic.GICR_PENDBASER, 8) == PENDING + 0x1_0000 & 0xFFFF_FFFF | 1 << 32


def test_queue_wraps_and_moves_only_when_disabled(board: ItsBoard) -> None:
    """More commands than it has places; GITS_CBASER is ignored while the ITS is enabled."""
    for _ in range(300):
        board.command(ItsCommand.SYNC)
    board.command(ItsCommand.INT, DEVICE, 0)
    assert board.listed() == [LPI]
    board.its.write(its.GITS_CBASER, 8, 0)
    board.its.write(its.GITS_CWRITER, 8, 0x1000)  # beyond the queue
    assert (
        board.its.read(its.GITS_CREADR, 8) == board.its.read(its.GITS_CWRITER, 8) == board.written
    )
    board.its.write(its.GITS_CTLR, 4, 0)
    board.its.write(its.GITS_CBASER, 8, CBASER.VALID.mask | QUEUE)
    assert board.its.read(its.GITS_CREADR, 8) == 0


def test_commands_wait_for_the_its_to_be_enabled() -> None:
    """They are executed then."""
    board = ItsBoard()
    board.give_tables()
    board.enable_lpis(0)
    board.command(ItsCommand.MAPC, third=VALID)
    assert board.its.read(its.GITS_CREADR, 8) == 0
    board.its.write(its.GITS_CTLR, 4, its.GITS_CTLR_ENABLED)
    assert board.its.read(its.GITS_CREADR, 8) == 32


def test_commands_give_way_to_who_wants_the_vcpu() -> None:
    """A repeated write goes on where the last one stopped."""
    is_wanted = False
    board = ItsBoard(is_halting=lambda: is_wanted).start()
    is_wanted = True
    start = board.its.read(its.GITS_CREADR, 8)
    for done in (1, 2):
        with pytest.raises(RepeatAccess):
            board.its.write(its.GITS_CWRITER, 8, start + 32 * 3)
        assert board.its.read(its.GITS_CREADR, 8) == start + 32 * done


@pytest.mark.parametrize("page", [QUEUE, DEVICES, COLLECTIONS, ITTS + 0x1000 * DEVICE])
def test_memory_that_is_not_shared_counts_as_empty(board: ItsBoard, page: int) -> None:
    """Whatever it is for, there is no exception, and no message arrives through it."""
    board.memory.refused.add(page)
    for kind in ItsCommand:
        board.command(kind, DEVICE, 0 | LPI << 32, VALID)
    board.its.signal(DEVICE, 0)
    if page != QUEUE:
        assert board.listed() == []
        assert board.its.read(its.GITS_CREADR, 8) == board.written
    else:
        assert board.its.read(its.GITS_CREADR, 8) != board.written


def test_configuration_that_is_not_shared_counts_as_zeros() -> None:
    """All LPIs are disabled."""
    board = ItsBoard()
    board.memory.refused.add(CONFIG)
    board.start()
    board.map_device()
    board.command(ItsCommand.MAPTI, DEVICE, LPI << 32, 0)
    board.its.signal(DEVICE, 0)
    assert board.listed() == []


def test_lpis_beyond_the_tables_do_not_exist() -> None:
    """The guest says how many INTID bits its tables have; with 13 there is no LPI."""
    board = ItsBoard()
    board.configure(LPI, gic.LPI_ENABLED)
    board.memory.write(PENDING + LPI // 8, b"\x01")
    board.gicrs[0].write(gic.GICR_PROPBASER, 8, CONFIG | 12)
    board.gicrs[0].write(gic.GICR_PENDBASER, 8, PENDING)
    board.gicrs[0].write(gic.GICR_CTLR, 4, gic.GICR_CTLR_ENABLE_LPIS)
    board.gicrs[0].write(gic.GICR_INVLPIR, 8, LPI)
    assert board.listed() == []
    board.gicrs[0].write(gic.GICR_CTLR, 4, 0)
    board.gicrs[0].write(gic.GICR_PROPBASER, 8, CONFIG | 31)  # more than there are
    board.gicrs[0].write(gic.GICR_CTLR, 4, gic.GICR_CTLR_ENABLE_LPIS)
    assert board.listed() == [LPI]


def test_pending_table_that_is_not_shared_counts_as_zeros() -> None:
    """Nothing is pending at the start, and what is pending at the end is lost."""
    board = ItsBoard()
    board.memory.refused.add(PENDING)
    board.start()
    board.map_device()
    board.map(0, LPI)
    board.its.signal(DEVICE, 0)
    assert board.listed() == [LPI]
    board.enable_lpis(0, is_enabled=False)
    board.enable_lpis(0)
    assert board.listed() == []


def test_routes_that_were_used_are_not_kept_without_bound() -> None:
    """A guest may have more events than the cache has places."""
    board = ItsBoard().start()
    board.map_device(event_bits=12)
    for event in range(2000):
        board.command(ItsCommand.MAPTI, DEVICE, event | LPI + event << 32, 0)
    for event in range(2000):
        board.its.signal(DEVICE, event)
    assert len(board.its._cache) < 2000
    board.configure(LPI + 1999, gic.LPI_ENABLED)
    board.command(ItsCommand.INVALL, third=0)
    assert board.take() == [LPI + 1999]


def test_no_message_is_lost_while_its_lpi_moves() -> None:
    """One thread signals, one moves the LPI from CPU to CPU, and two CPUs take what comes."""
    board = ItsBoard().start()
    board.map_device()
    board.map(0, LPI)
    num_messages, num_taken, is_over = 500, 0, False

    def run_cpu(cpu: int) -> None:
        nonlocal num_taken
        while not is_over:
            if board.take(cpu):
                num_taken += 1  # the LPI is pending at one CPU at a time
            sleep(0)

    def move() -> None:
        turn = 0
        while not is_over:
            turn += 1
            board.command(ItsCommand.MOVI, DEVICE, 0, turn & 1)
            board.command(ItsCommand.MOVALL, third=(turn & 1) << 16, last=(~turn & 1) << 16)
            sleep(0)

    threads = [Thread(target=run_cpu, args=(cpu,)) for cpu in (0, 1)] + [Thread(target=move)]
    for thread in threads:
        thread.start()
    deadline = monotonic() + PATIENCE
    for number in range(num_messages):
        board.its.signal(DEVICE, 0)
        while num_taken == number and monotonic() < deadline:
            sleep(0)
    is_over = True
    for thread in threads:
        thread.join()
    assert num_taken == num_messages


def test_restored_its_translates_and_lpis_stay_pending(board: ItsBoard) -> None:
    """With its tables, which are in memory, and the configuration that the CPUs have cached."""
    board.map(1, LPI + 1)
    board.its.signal(DEVICE, 1)
    other = ItsBoard()
    other.memory = board.memory
    other.its._memory = other.its._lpis._memory = board.its._memory
    other.vgic.load(board.vgic.save())
    other.its.load(board.its.save())
    assert other.vgic.load_lrs(0)[0] & 0xFFFF_FFFF == LPI + 1
    other.vgic.sync_lrs(0, NO_LRS)
    other.its.signal(DEVICE, 0)
    assert other.vgic.load_lrs(0)[0] & 0xFFFF_FFFF == LPI
    assert other.gicrs[0].read(gic.GICR_PROPBASER, 8) == board.gicrs[0].read(gic.GICR_PROPBASER, 8)
    assert other.its.save() == board.its.save()
    wrong: tuple[State, ...] = ({"_cwriter": 1 << 40}, {"_basers": [1]})
    for each in wrong:
        with pytest.raises(StateError):
            other.its.load(board.its.save() | each)
    state = board.vgic.save()
    with pytest.raises(StateError):
        other.vgic.load(state | {"lpis": part(state, "lpis") | {"priority": b""}})
