"""The guest's interrupt controller, used like by Linux's driver and a CPU with list registers."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.arch import gic
from pyvmm.host.vgic import NO_LRS, Vgic
from pyvmm.host.vgic_mmio import Distributor, Redistributor

SPI = 40
SGI_FRAME = gic.GICR_SGI_FRAME


class ListRegisterCpu:
    """A virtual CPU interface over list registers: acknowledges and ends interrupts."""

    def __init__(self, vgic: Vgic, cpu: int = 0) -> None:
        self.vgic = vgic
        self.cpu = cpu
        self.lrs = list(NO_LRS)

    def enter(self) -> "ListRegisterCpu":
        """Take the list registers."""
        self.lrs = list(self.vgic.load_lrs(self.cpu))
        return self

    def leave(self) -> None:
        """Pass them to the controller."""
        self.vgic.sync_lrs(self.cpu, self.lrs)

    def pending(self) -> list[int]:
        """List the pending INTIDs."""
        return [lr & gic.ICH_LR_INTID_MASK for lr in self.lrs if lr & gic.ICH_LR_PENDING]

    def active(self) -> list[int]:
        """List the active INTIDs."""
        return [lr & gic.ICH_LR_INTID_MASK for lr in self.lrs if lr & gic.ICH_LR_ACTIVE]

    def acknowledge(self) -> int:
        """Activate the pending interrupt of the highest priority; 1023 if there is none."""
        ready = [
            n
            for n, lr in enumerate(self.lrs)
            if lr & gic.ICH_LR_PENDING and not lr & gic.ICH_LR_ACTIVE
        ]
        if not ready:
            return 1023
        best = min(ready, key=lambda n: self.lrs[n] >> gic.ICH_LR_PRIORITY_SHIFT & 0xFF)
        self.lrs[best] ^= gic.ICH_LR_PENDING | gic.ICH_LR_ACTIVE
        return self.lrs[best] & gic.ICH_LR_INTID_MASK

    def end(self, intid: int) -> bool:
        """End an interrupt; True if its list register asks for a maintenance interrupt."""
        for n, lr in enumerate(self.lrs):
            if lr & gic.ICH_LR_INTID_MASK == intid and lr & gic.ICH_LR_ACTIVE:
                self.lrs[n] = lr & ~gic.ICH_LR_ACTIVE
                return bool(lr & gic.ICH_LR_EOI)
        return False


def probe(vgic: Vgic) -> None:
    """Initialise the controller in the order of Linux's irq-gic-v3 driver."""
    gicd = Distributor(vgic)
    assert gicd.read(gic.GIC_PIDR2, 4) & 0xF0 == 0x30
    lines = 32 * ((gicd.read(gic.GICD_TYPER, 4) & 0x1F) + 1)
    gicd.write(gic.GICD_CTLR, 4, 0)
    for n in range(32, lines, 32):
        gicd.write(gic.GICD_IGROUPR + n // 8, 4, 0xFFFF_FFFF)
    for n in range(32, lines, 16):
        gicd.write(gic.GICD_ICFGR + n // 4, 4, 0)
    for n in range(32, lines, 4):
        gicd.write(gic.GICD_IPRIORITYR + n, 4, 0xA0A0_A0A0)
    for n in range(32, lines, 32):
        gicd.write(gic.GICD_ICACTIVER + n // 8, 4, 0xFFFF_FFFF)
        gicd.write(gic.GICD_ICENABLER + n // 8, 4, 0xFFFF_FFFF)
    ctlr = gic.GICD_CTLR_ARE | gic.GICD_CTLR_GRP1 | gic.GICD_CTLR_GRP0
    gicd.write(gic.GICD_CTLR, 4, ctlr)
    assert gicd.read(gic.GICD_CTLR, 4) == ctlr | gic.GICD_CTLR_DS
    for n in range(32, lines):
        gicd.write(gic.GICD_IROUTER + 8 * n, 8, vgic.cpus[0].affinity)
    for cpu in range(len(vgic.cpus)):
        probe_cpu(Redistributor(vgic, cpu))


def probe_cpu(gicr: Redistributor) -> None:
    """Initialise one redistributor as the driver does."""
    assert gicr.read(gic.GIC_PIDR2, 4) & 0xF0 == 0x30
    gicr.write(SGI_FRAME + gic.GICD_IGROUPR, 4, 0xFFFF_FFFF)
    gicr.write(SGI_FRAME + gic.GICD_ICACTIVER, 4, 0xFFFF_FFFF)
    gicr.write(SGI_FRAME + gic.GICD_ICENABLER, 4, 0xFFFF_FFFF)
    for n in range(0, 32, 4):
        gicr.write(SGI_FRAME + gic.GICD_IPRIORITYR + n, 4, 0xA0A0_A0A0)
    gicr.write(SGI_FRAME + gic.GICD_ISENABLER, 4, 0x0800_00FF)


class Board:
    """A probed controller with a record of the kicks."""

    def __init__(self, num_cpus: int) -> None:
        self.kicks: list[int] = []
        self.vgic = Vgic(num_cpus, kick=self.kicks.append)
        self.gicd = Distributor(self.vgic)
        self.gicrs = [Redistributor(self.vgic, cpu) for cpu in range(num_cpus)]
        self.cpus = [ListRegisterCpu(self.vgic, cpu) for cpu in range(num_cpus)]
        probe(self.vgic)

    def enable(self, intid: int, edge: bool = False, priority: int = 0xA0, cpu: int = 0) -> None:
        """Route, configure and enable an SPI."""
        self.gicd.write(gic.GICD_IROUTER + 8 * intid, 8, self.vgic.cpus[cpu].affinity)
        self.gicd.write(gic.GICD_IPRIORITYR + intid, 1, priority)
        config = self.gicd.read(gic.GICD_ICFGR + intid // 16 * 4, 4)
        field = 2 << intid % 16 * 2
        config = config | field if edge else config & ~field
        self.gicd.write(gic.GICD_ICFGR + intid // 16 * 4, 4, config)
        self.gicd.write(gic.GICD_ISENABLER + intid // 32 * 4, 4, 1 << intid % 32)


@pytest.fixture
def board() -> Board:
    """Two CPUs."""
    return Board(2)


def test_typer_names_the_implemented_lines_when_read(board: Board) -> None:
    """32 private and 128 shared interrupts are five groups of 32, no LPIs, ten INTID bits."""
    typer = board.gicd.read(gic.GICD_TYPER, 4)
    assert typer & 0x1F == 4
    assert typer >> 17 & 1 == 0
    assert typer >> 19 & 0x1F == 9


def test_gicr_typer_ends_the_list_at_the_last_cpu() -> None:
    """A driver finds its redistributor by affinity and stops at Last."""
    vgic = Vgic(18)
    typers = [Redistributor(vgic, cpu).read(gic.GICR_TYPER, 8) for cpu in range(18)]
    assert [typer >> 32 for typer in typers][-3:] == [0xF, 0x100, 0x101]
    assert [bool(typer & gic.GICR_TYPER_LAST) for typer in typers] == [False] * 17 + [True]


def test_gicr_waker_reads_as_zero_and_ignores_writes() -> None:
    """A redistributor is awake from the start, as under KVM: some kernels rely on it."""
    gicr = Redistributor(Vgic(1), 0)
    for value in (0xFFFF_FFFF, 2, 0):
        assert gicr.read(gic.GICR_WAKER, 4) == 0
        gicr.write(gic.GICR_WAKER, 4, value)
    assert gicr.read(gic.GICR_WAKER, 4) == 0


def test_level_spi_is_pending_again_after_eoi_when_its_line_stays_high(board: Board) -> None:
    """A level interrupt's EOI makes the CPU exit, and the line is sampled again."""
    cpu = board.cpus[0]
    board.enable(SPI)
    board.vgic.set_spi(SPI, True)
    assert cpu.enter().acknowledge() == SPI
    cpu.leave()
    assert cpu.enter().active() == [SPI]
    assert cpu.pending() == []
    assert cpu.end(SPI)
    cpu.leave()
    assert cpu.enter().acknowledge() == SPI
    board.vgic.set_spi(SPI, False)
    assert cpu.end(SPI)
    cpu.leave()
    assert cpu.enter().pending() == []


def test_level_spi_is_withdrawn_when_its_line_falls_before_the_acknowledge(board: Board) -> None:
    """An interrupt that the device has withdrawn is not delivered at the next entry."""
    board.enable(SPI)
    board.vgic.set_spi(SPI, True)
    board.cpus[0].enter().leave()
    board.vgic.set_spi(SPI, False)
    assert board.cpus[0].enter().lrs == NO_LRS


def test_edge_spi_is_delivered_once_a_rise(board: Board) -> None:
    """A pulse is latched, delivered once, and needs no maintenance interrupt."""
    cpu = board.cpus[0]
    board.enable(SPI, edge=True)
    board.vgic.set_spi(SPI, True)
    board.vgic.set_spi(SPI, False)
    assert cpu.enter().acknowledge() == SPI
    assert not cpu.end(SPI)
    cpu.leave()
    assert cpu.enter().lrs == NO_LRS


def test_edge_spi_kicks_and_becomes_pending_and_active_when_it_rises_while_active(
    board: Board,
) -> None:
    """The second edge is not lost: its CPU is kicked although it holds the interrupt."""
    cpu = board.cpus[0]
    board.enable(SPI, edge=True)
    board.vgic.set_spi(SPI, True)
    cpu.enter().acknowledge()
    board.vgic.set_spi(SPI, False)
    board.vgic.set_spi(SPI, True)
    assert board.kicks == [0]
    cpu.leave()
    assert cpu.enter().active() == cpu.pending() == [SPI]


def test_unacknowledged_edge_survives_an_exit(board: Board) -> None:
    """A list register that comes back pending is latched again."""
    board.enable(SPI, edge=True)
    board.vgic.set_spi(SPI, True)
    board.cpus[0].enter().leave()
    assert board.cpus[0].enter().pending() == [SPI]


def test_set_spi_kicks_only_a_cpu_that_runs_and_lacks_it(board: Board) -> None:
    """A CPU outside its guest checks again anyway; a kicked one is not kicked twice."""
    board.enable(SPI, cpu=1)
    board.enable(SPI + 1, cpu=1)
    board.vgic.set_spi(SPI, True)
    assert board.kicks == []
    board.cpus[0].enter()
    board.cpus[1].enter()
    board.vgic.set_spi(SPI, True)
    assert board.kicks == []
    board.vgic.set_spi(SPI + 1, True)
    board.vgic.set_spi(SPI + 1, True)
    assert board.kicks == [1]


def test_list_registers_hold_the_highest_priorities_when_there_are_too_many(board: Board) -> None:
    """Four of six by priority, then UIE brings the CPU back for the rest."""
    cpu = board.cpus[0]
    for n, priority in enumerate((0xA0, 0x20, 0xC0, 0x40, 0x40, 0x08)):
        board.enable(SPI + n, priority=priority)
        board.vgic.set_spi(SPI + n, True)
    assert cpu.enter().pending() == [SPI + 5, SPI + 1, SPI + 3, SPI + 4]
    assert board.vgic.hcr(0) == gic.ICH_HCR_UIE
    for n in (5, 1, 3, 4):
        assert cpu.acknowledge() == SPI + n
        board.vgic.set_spi(SPI + n, False)
        cpu.end(SPI + n)
    cpu.leave()
    assert cpu.enter().pending() == [SPI, SPI + 2]
    assert board.vgic.hcr(0) == 0


def test_active_interrupts_keep_their_list_registers_before_pending_ones(board: Board) -> None:
    """An EOI must find its interrupt, even if new ones have a higher priority."""
    cpu = board.cpus[0]
    board.enable(SPI, priority=0xF0)
    board.vgic.set_spi(SPI, True)
    cpu.enter().acknowledge()
    cpu.leave()
    for n in range(1, 6):
        board.enable(SPI + n, priority=0)
        board.vgic.set_spi(SPI + n, True)
    assert cpu.enter().active() == [SPI]
    assert len(cpu.pending()) == 3


def test_eoi_count_deactivates_what_had_no_list_register(board: Board) -> None:
    """EOIcount counts EOIs that matched no list register."""
    cpu = board.cpus[0]
    for n in range(5):
        board.enable(SPI + n, priority=0x80 - 8 * n)
        board.gicd.write(gic.GICD_ISACTIVER + SPI // 32 * 4, 4, 1 << SPI % 32 + n)
    cpu.enter()
    assert len(cpu.active()) == 4
    board.vgic.cpus[0].held |= 1 << SPI
    board.vgic.sync_lrs(0, cpu.lrs, hcr=1 << gic.ICH_HCR_EOICOUNT_SHIFT)
    assert sorted(cpu.enter().active()) == [SPI + n for n in range(1, 5)]


@pytest.mark.parametrize(
    ("value", "reached"),
    [
        pytest.param(0b10 | 5 << 24, [1], id="the other CPU"),
        pytest.param(0b11 | 5 << 24, [0, 1], id="both"),
        pytest.param(1 << 40 | 5 << 24, [1], id="all but the sender"),
        pytest.param(0b11 | 1 << 16 | 5 << 24, [], id="another cluster"),
        pytest.param(0b11 | 1 << 44 | 5 << 24, [], id="another range"),
    ],
)
def test_send_sgi_reaches_its_targets(board: Board, value: int, reached: list[int]) -> None:
    """ICC_SGI1R_EL1 names CPUs by cluster, range and list, or all others."""
    board.vgic.send_sgi(0, value)
    assert [n for n in (0, 1) if board.cpus[n].enter().pending() == [5]] == reached


def test_send_sgi_kicks_a_running_target(board: Board) -> None:
    """An IPI interrupts a guest that runs."""
    board.cpus[1].enter()
    board.vgic.send_sgi(0, 0b10)
    assert board.kicks == [1]


def test_timer_ppi_is_private_to_its_cpu(board: Board) -> None:
    """The line of PPI 27 on one CPU has no effect on another."""
    board.vgic.set_ppi(1, gic.PPI_VIRTUAL_TIMER, True)
    assert board.cpus[0].enter().pending() == []
    assert board.cpus[1].enter().pending() == [gic.PPI_VIRTUAL_TIMER]


def test_rerouted_spi_waits_until_its_first_cpu_lets_go(board: Board) -> None:
    """Only one CPU holds an SPI at a time; the next one is kicked when it is released."""
    board.enable(SPI)
    board.vgic.set_spi(SPI, True)
    board.cpus[0].enter().acknowledge()
    board.cpus[1].enter()
    board.gicd.write(gic.GICD_IROUTER + 8 * SPI, 8, board.vgic.cpus[1].affinity)
    assert board.gicd.read(gic.GICD_IROUTER + 8 * SPI, 8) == 1
    assert board.kicks == []
    board.cpus[0].end(SPI)
    board.cpus[0].leave()
    assert board.kicks == [1]
    board.cpus[1].leave()
    assert board.cpus[1].enter().pending() == [SPI]
    assert board.cpus[0].enter().pending() == []


def test_spi_routed_to_no_cpu_reaches_none(board: Board) -> None:
    """An affinity without a CPU is a valid route to nowhere."""
    board.enable(SPI)
    board.gicd.write(gic.GICD_IROUTER + 8 * SPI, 8, 0x7F_0000_0000)
    board.vgic.set_spi(SPI, True)
    assert not board.vgic.has_pending(0)
    assert not board.vgic.has_pending(1)
    assert board.gicd.read(gic.GICD_IROUTER + 8 * SPI + 4, 4) == 0x7F


@pytest.mark.parametrize("how", ["disable", "group", "distributor"])
def test_masked_spi_is_not_delivered_until_unmasked(board: Board, how: str) -> None:
    """Each of the three switches blocks a pending interrupt, and kicks when enabled."""
    bit = 1 << SPI % 32
    switches = {
        "disable": (gic.GICD_ICENABLER + 4, bit, gic.GICD_ISENABLER + 4, bit),
        "group": (gic.GICD_CTLR, gic.GICD_CTLR_GRP0, gic.GICD_CTLR, gic.GICD_CTLR_GRP1),
        "distributor": (gic.GICD_CTLR, 0, gic.GICD_CTLR, gic.GICD_CTLR_GRP1),
    }
    off, off_value, on, on_value = switches[how]
    board.enable(SPI)
    board.gicd.write(off, 4, off_value)
    board.vgic.set_spi(SPI, True)
    assert board.cpus[0].enter().lrs == NO_LRS
    board.gicd.write(on, 4, on_value)
    assert board.kicks == [0]
    board.cpus[0].leave()
    assert board.cpus[0].enter().pending() == [SPI]


def test_software_pending_state_ends_with_its_handling(board: Board) -> None:
    """GICD_ISPENDR makes a level interrupt pending once; ICPENDR takes it back."""
    board.enable(SPI)
    word, bit = 4 * (SPI // 32), 1 << SPI % 32
    board.gicd.write(gic.GICD_ISPENDR + word, 4, bit)
    assert board.gicd.read(gic.GICD_ICPENDR + word, 4) == bit
    cpu = board.cpus[0].enter()
    assert cpu.acknowledge() == SPI
    cpu.end(SPI)
    cpu.leave()
    assert cpu.enter().lrs == NO_LRS
    board.gicd.write(gic.GICD_ISPENDR + word, 4, bit)
    board.gicd.write(gic.GICD_ICPENDR + word, 4, bit)
    assert not board.vgic.has_pending(0)


def test_icactiver_ends_an_activation(board: Board) -> None:
    """Linux clears all activations when it starts, as after kexec."""
    board.enable(SPI)
    board.vgic.set_spi(SPI, True)
    board.cpus[0].enter().acknowledge()
    board.cpus[0].leave()
    assert board.gicd.read(gic.GICD_ISACTIVER + 4, 4) == 1 << SPI % 32
    board.gicd.write(gic.GICD_ICACTIVER + 4, 4, 0xFFFF_FFFF)
    assert board.gicd.read(gic.GICD_ISACTIVER + 4, 4) == 0
    assert board.cpus[0].enter().pending() == [SPI]


def test_list_register_fields_when_listed(board: Board) -> None:
    """Group 1, five priority bits, the EOI bit for a level interrupt and HW = 0."""
    board.enable(SPI, priority=0xFF)
    board.vgic.set_spi(SPI, True)
    assert board.cpus[0].enter().lrs[0] == (
        SPI | gic.ICH_LR_EOI | 0xF8 << 48 | gic.ICH_LR_GROUP1 | gic.ICH_LR_PENDING
    )


def test_sgi_configuration_is_fixed(board: Board) -> None:
    """SGIs are edge-triggered whatever is written; PPIs can be changed."""
    board.gicrs[0].write(SGI_FRAME + gic.GICD_ICFGR, 4, 0)
    assert board.gicrs[0].read(SGI_FRAME + gic.GICD_ICFGR, 4) == 0xAAAA_AAAA
    board.gicrs[0].write(SGI_FRAME + gic.GICD_ICFGR + 4, 4, 0xFFFF_FFFF)
    assert board.gicrs[0].read(SGI_FRAME + gic.GICD_ICFGR + 4, 4) == 0xAAAA_AAAA


def test_private_registers_of_the_distributor_are_reserved(board: Board) -> None:
    """With affinity routing, the first word of each bitmap belongs to the redistributors."""
    board.gicd.write(gic.GICD_ISENABLER, 4, 0xFFFF_FFFF)
    assert board.gicd.read(gic.GICD_ISENABLER, 4) == 0
    assert board.gicrs[0].read(SGI_FRAME + gic.GICD_ISENABLER, 4) == 0x0800_00FF


@given(
    st.integers(0, 0x1FFFF),
    st.sampled_from((1, 2, 4, 8)),
    st.integers(0, 2**64 - 1),
    st.booleans(),
)
def test_any_access_to_any_frame_is_answered(
    offset: int, size: int, value: int, redistributor: bool
) -> None:
    """No offset, size or value raises, and a read fits its size."""
    vgic = Vgic(2)
    frame = Redistributor(vgic, 1) if redistributor else Distributor(vgic)
    frame.write(offset, size, value & (1 << 8 * size) - 1)
    assert 0 <= frame.read(offset, size) < 1 << 8 * size
    vgic.sync_lrs(0, vgic.load_lrs(0))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 1)), max_size=60))
def test_no_interrupt_is_ever_listed_on_two_cpus(steps: list[tuple[int, int, int]]) -> None:
    """With any devices, guests and reroutes, only one CPU holds an SPI."""
    board = Board(2)
    for n in range(4):
        board.enable(SPI + n, edge=bool(n & 1), cpu=n & 1)
    running = [False, False]
    for what, n, cpu in steps:
        guest = board.cpus[cpu]
        if what == 0:
            board.vgic.set_spi(SPI + n, bool(cpu))
        elif what == 1 and not running[cpu]:
            guest.enter()
            running[cpu] = True
        elif what == 2 and running[cpu]:
            guest.leave()
            running[cpu] = False
        elif what == 3 and running[cpu]:
            guest.acknowledge()
        elif what == 4 and running[cpu]:
            guest.end(SPI + n)
        elif what == 5:
            board.gicd.write(gic.GICD_IROUTER + 8 * (SPI + n), 8, cpu)
        elif what == 6:
            switch = gic.GICD_ISENABLER if cpu else gic.GICD_ICENABLER
            board.gicd.write(switch + 4, 4, 1 << SPI % 32 + n)
        assert board.vgic.cpus[0].held & board.vgic.cpus[1].held == 0


def test_interrupts_from_many_threads_are_all_delivered() -> None:
    """With pulses from two threads and a CPU that enters and exits, every INTID arrives."""
    board = Board(1)
    wanted = range(SPI, SPI + 40)
    for n in wanted:
        board.enable(n, edge=True)

    def pulse(first: int) -> None:
        for n in range(first, SPI + 40, 2):
            board.vgic.set_spi(n, True)
            board.vgic.set_spi(n, False)

    threads = [threading.Thread(target=pulse, args=(SPI + n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    seen: set[int] = set()
    while any(thread.is_alive() for thread in threads) or board.vgic.has_pending(0):
        cpu = board.cpus[0].enter()
        while (intid := cpu.acknowledge()) != 1023:
            seen.add(intid)
            cpu.end(intid)
        cpu.leave()
    assert seen == set(wanted)
