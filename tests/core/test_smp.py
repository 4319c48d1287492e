"""Two PEs, one thread each: atomics, ordering, invalidations that are seen when DSB says so, kicks.

The guest programs are endless loops or count rounds; a PE that is done says ``hvc``. Shared words
lie at x0 (DATA, identity mapped); LSE instructions are words: the assembler does not know them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

import pytest

from pyvmm.arch.exits import ExitReason
from pyvmm.arch.pas import Pas
from pyvmm.core import Clock, PeContext
from tests.core.program import assemble
from tests.core.system import (
    AF,
    BASE,
    CODE,
    DATA,
    EC_DATA_ABORT,
    EC_HVC,
    PAGE,
    UXN,
    VECTORS,
    Bench,
)
from tests.core.test_stage2 import GPCCR, GPF, GPF_WALK, GPI_NS, GPI_REALM, Gpt

BUDGET = 1 << 40
ROUNDS = 20_000
PAGES = 16  # of shared memory from DATA on
RETRY_VECTORS = VECTORS + PAGE  # every vector there is ERET: try again
REMAPPED = 0x4000_0000  # a page that the tests map anew and anew
IRQ_KICK = 1
TIMEOUT = 30
A_WHILE = 0.5  # seconds
A_WHILE_LONG = 10_000  # instructions
PROMPT = 0.5  # seconds, on a machine with other work

WORD = struct.Struct("<Q")


class Pair:
    """A machine with two PEs, stage 1 on, and a context for each."""

    def __init__(self) -> None:
        self.bench = Bench(num_pes=2, clock=Clock.REAL)
        self.memory = self.bench.memory
        self.bench.mmu_on()
        for page in range(PAGES):
            self.bench.map(DATA + page * PAGE, DATA + page * PAGE, AF | UXN)
        machine = self.bench.machine
        self.contexts = [self.bench.state, machine.copy_context(self.bench.state)]
        self.threads = ThreadPoolExecutor(2)
        self._runs: list[Future[tuple[int, int, int]]] = []

    def start(self, pe: int, text: str) -> Future[tuple[int, int, int]]:
        """Let a PE run a program; the future gives (reason, esr, irq)."""
        context: PeContext = self.contexts[pe]
        at = CODE + 0x800 * pe
        self.memory.write(at, assemble(text))
        context.pc = at
        context.x[0] = DATA
        self._runs.append(self.threads.submit(self._run, pe))
        return self._runs[-1]

    def _run(self, pe: int) -> tuple[int, int, int]:
        exit_ = self.bench.machine.pe(pe).run(self.contexts[pe], BUDGET)
        return exit_.reason, exit_.esr, exit_.irq

    def run(self, first: str, second: str) -> None:
        """Run a program on each until both say ``hvc``."""
        for future in as_completed([self.start(0, first), self.start(1, second)], TIMEOUT):
            reason, esr, _ = future.result()
            assert (reason, esr >> 26) == (ExitReason.SYNC, EC_HVC), hex(esr)

    def run_a_while(self, first: str, second: str) -> None:
        """Run a program on each until both say ``hvc`` or time is up, whatever came first.

        Rounds that need both PEs are slow when the host has other work, hence no count; but each
        PE gets a while of the host's time.
        """
        before = [self.bench.machine.pe(pe).instructions for pe in range(2)]
        futures = [self.start(0, first), self.start(1, second)]
        deadline = time.monotonic() + TIMEOUT
        while wait(futures, A_WHILE).not_done and time.monotonic() < deadline:
            done = [self.bench.machine.pe(pe).instructions for pe in range(2)]
            if all(now - then >= A_WHILE_LONG for now, then in zip(done, before, strict=True)):
                break
        self.stop()
        for reason, esr, _ in (future.result() for future in futures):
            assert reason == ExitReason.IRQ or esr >> 26 == EC_HVC, hex(esr)

    def stop(self) -> None:
        """End what runs."""
        while any(not future.done() for future in self._runs):
            for pe in range(2):
                self.bench.machine.pe(pe).kick()
            time.sleep(0.001)

    def word(self, offset: int) -> int:
        """Return a shared word."""
        return self.memory.read_u64(DATA + offset)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two PEs; whatever still runs at the end of the test is stopped."""
    pair = Pair()
    yield pair
    pair.stop()
    pair.threads.shutdown()


def cas(size: int, expected: int, desired: int) -> str:
    """Return CASAL of 1 << size bytes at x0."""
    return f".word {0x08E0FC00 | size << 30 | expected << 16 | desired:#x}\n"


def ldadd(size: int, operand: int, result: int) -> str:
    """Return LDADDAL of 1 << size bytes at x0."""
    return f".word {0x38E00000 | size << 30 | operand << 16 | result:#x}\n"


TAKE = "take: {load} w2, [x0]\n cbnz w2, take\n mov w3, #1\n stxr w2, w3, [x0]\n cbnz w2, take\n"
TAKE_CAS = f"take: mov w2, #0\n mov w3, #1\n {cas(2, 2, 3)} cbnz w2, take\n"
TAKE_PAIR = "take: ldxp x2, x3, [x0]\n cbnz x2, take\n mov x3, #1\n stxp w2, x3, x3, [x0]\n"
TAKE_PAIR += "cbnz w2, take\n dmb ish\n"
LOCKS = {
    "exclusives": (TAKE.format(load="ldaxr"), "stlr wzr, [x0]\n"),
    "cas": (TAKE_CAS, "stlr wzr, [x0]\n"),
    "barriers": (TAKE.format(load="ldxr") + "dmb ish\n", "dmb ish\n str wzr, [x0]\n"),
    "pairs": (TAKE_PAIR, "dmb ish\n str xzr, [x0]\n"),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_admits_one_pe(pair: Pair, lock: str) -> None:
    """A plain counter under a spinlock counts every round of both."""
    take, release = LOCKS[lock]
    text = (
        f"mov x1, #{ROUNDS}\n next: {take} ldr x4, [x0, #64]\n add x4, x4, #1\n str x4, [x0, #64]\n"
        f"{release} subs x1, x1, #1\n b.ne next\n hvc #0"
    )
    pair.run(text, text)
    assert pair.word(64) == 2 * ROUNDS


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize("way", ["ldadd", "cas", "exclusive"])
def test_a_counter_loses_nothing(pair: Pair, way: str, size: int) -> None:
    """Atomic additions of every size, and the neighbouring bytes stay as they are."""
    suffix, register = ("b", "h", "", "")[size], "x" if size == 3 else "w"
    step = {
        "ldadd": f"mov x2, #3\n {ldadd(size, 2, 3)}",
        "cas": f"again: ldr{suffix} {register}3, [x0]\n mov x4, x3\n add x5, x3, #3\n"
        f"{cas(size, 4, 5)} cmp {register}4, {register}3\n b.ne again\n",
        "exclusive": f"again: ldxr{suffix} {register}3, [x0]\n add x5, x3, #3\n"
        f"stxr{suffix} w6, {register}5, [x0]\n cbnz w6, again\n",
    }[way]
    text = f"mov x1, #{ROUNDS}\n next: {step} subs x1, x1, #1\n b.ne next\n hvc #0"
    pair.run(text, text)
    assert pair.word(0) == 6 * ROUNDS % (1 << (8 << size))


@pytest.mark.parametrize(
    ("send", "receive"),
    [
        ("stlr x1, [x3]\n", "ldar x5, [x3]\n"),
        ("dmb ish\n str x1, [x3]\n", "ldr x5, [x3]\n dmb ishld\n"),
        ("dmb ishst\n str x1, [x3]\n", "ldr x5, [x3]\n dsb ish\n"),
    ],
)
def test_a_message_comes_with_its_flag(pair: Pair, send: str, receive: str) -> None:
    """Who sees the flag (x3) sees what was written before it; the answer is at x4."""
    setup = "mov x1, #1\n add x3, x0, #128\n add x4, x0, #256\n mov x7, #0\n"
    answer = "wait: ldar x6, [x4]\n cmp x6, x1\n b.ne wait\n"
    look = f"wait: {receive} cmp x5, x1\n b.ne wait\n ldr x6, [x0]\n cmp x6, x1\n cinc x7, x7, ne\n"
    pair.run_a_while(
        f"{setup} next: str x1, [x0]\n {send} {answer} add x1, x1, #1\n b next",
        f"{setup} next: {look} stlr x1, [x4]\n add x1, x1, #1\n b next",
    )
    assert pair.contexts[1].x[1] > 1
    assert pair.contexts[1].x[7] == 0


@pytest.mark.parametrize(
    ("store", "load"),
    [("str x6, [x2]\n dmb ish\n", "ldr x7, [x3]\n"), ("stlr x6, [x2]\n", "ldar x7, [x3]\n")],
)
def test_a_load_stays_behind_an_earlier_store(pair: Pair, store: str, load: str) -> None:
    """Each PE stores its word, then loads the other's: with barriers at least one sees a store."""
    rounds = 1500
    at, result = {0: 0x1000, 1: 0x5000}, {0: 0x9000, 1: 0xD000}

    def text(me: int) -> str:
        bases = zip((2, 3, 4), (at[me], at[1 - me], result[me]), strict=True)
        setup = "".join(f"add x{n}, x0, #{offset >> 12}, lsl #12\n" for n, offset in bases)
        meet = f"mov x8, #1\n {ldadd(3, 8, 9)} arrive: ldr x9, [x0]\n cmp x9, x5\n b.lo arrive\n"
        meet += f"ubfx x9, x1, #{3 * me}, #3\n late: subs x9, x9, #1\n b.pl late\n"
        step = "".join(f"add x{n}, x{n}, #8\n" for n in (2, 3, 4))
        return (
            f"{setup} mov x1, #{rounds}\n mov x5, #2\n mov x6, #1\n next: {meet} {store} {load}"
            f"str x7, [x4]\n {step} add x5, x5, #2\n subs x1, x1, #1\n b.ne next\n hvc #0"
        )

    pair.run_a_while(text(0), text(1))
    done = rounds - max(context.x[1] for context in pair.contexts)
    seen = zip(*(read_words(pair, result[me], done) for me in range(2)), strict=True)
    assert done
    assert (0, 0) not in set(seen)


def read_words(pair: Pair, offset: int, count: int) -> list[int]:
    """Return shared words."""
    return [word for (word,) in WORD.iter_unpack(pair.memory.read(DATA + offset, 8 * count))]


def test_changed_code_runs_on_the_other_pe_after_the_barriers(pair: Pair) -> None:
    """One patches ``mov x2, #n; ret`` and announces n; the other never runs an older one."""
    rounds = 3000
    pair.memory.write(DATA + PAGE, assemble("mov x2, #0\n ret"))
    setup = f"add x3, x0, #1, lsl #12\n mov x1, #1\n mov x7, #{rounds}\n mov x6, #0\n"
    patch = (
        "movz w4, #0xd280, lsl #16\n movk w4, #2\n orr w4, w4, w1, lsl #5\n str w4, [x3]\n"
        "dc cvau, x3\n dsb ish\n ic ivau, x3\n dsb ish\n isb\n stlr x1, [x0]\n"
    )
    writer = f"{setup} next: {patch} add x1, x1, #1\n cmp x1, x7\n b.ne next\n hvc #0"
    call = "ldar x5, [x0]\n isb\n blr x3\n cmp x2, x5\n cinc x6, x6, lo\n"
    runner = f"{setup} sub x7, x7, #1\n next: {call} cmp x5, x7\n b.ne next\n hvc #0"
    pair.run(writer, runner)
    assert (pair.contexts[1].x[6], pair.contexts[1].x[2]) == (0, rounds - 1)


#: x10 = descriptor's address, x11, x12 = descriptors of two pages, x13 = operand of TLBI, x14 and
#: x15 = the pages themselves. Breaks the mapping of the first, lets CHECK look at x14, maps the
#: second, and yields, so that the other PE sees it also where both share one host CPU.
REMAP = (
    "next: str xzr, [x10]\n dsb ishst\n tlbi vaae1is, x13\n dsb ish\n isb\n"
    "{check}"
    "str x12, [x10]\n dsb ishst\n isb\n mov x9, #30\n pause: yield\n subs x9, x9, #1\n b.ne pause\n"
    "mov x9, x11\n mov x11, x12\n mov x12, x9\n mov x9, x14\n mov x14, x15\n mov x15, x9\n"
    "add x1, x1, #1\n b next"
)
#: The word at x14 + 8 must stay as it is for a while: nobody reaches the page any more.
STAYS = (
    "ldr x7, [x14, #8]\n mov x9, #200\n watch: subs x9, x9, #1\n b.ne watch\n ldr x8, [x14, #8]\n"
    "cmp x7, x8\n cinc x6, x6, ne\n"
)


def prepare_remapping(pair: Pair) -> None:
    """Map REMAPPED to the first of two pages, and set PE 0's registers for REMAP."""
    first, second = DATA + PAGE, DATA + 2 * PAGE
    at = pair.bench.map(REMAPPED, first, AF | UXN)
    descriptor = pair.memory.read_u64(at)
    pair.bench.map(at & ~(PAGE - 1), at & ~(PAGE - 1), AF | UXN)
    pair.memory.write(RETRY_VECTORS, assemble("eret\n" + "nop\n" * 31) * 16)
    pair.bench.map(RETRY_VECTORS, RETRY_VECTORS, AF | UXN)
    pair.contexts[1].vbar_el1 = RETRY_VECTORS
    registers = {1: 0, 6: 0, 10: at, 11: descriptor, 12: descriptor ^ first ^ second}
    registers |= {13: REMAPPED >> 12, 14: first, 15: second}
    for number, value in registers.items():
        pair.contexts[0].x[number] = value
    pair.contexts[1].x[1] = REMAPPED


def test_nobody_reaches_the_old_page_after_tlbi_and_dsb(pair: Pair) -> None:
    """Break before make under a PE that reads and writes: poison in the old page stays unseen."""
    prepare_remapping(pair)
    poison = "mov x9, #-1\n str x9, [x14]\n " + STAYS + "str xzr, [x14]\n"
    reader = (
        "mov x6, #0\n next: ldr x4, [x1]\n cmn x4, #1\n cinc x6, x6, eq\n add x5, x5, #1\n"
        "str x5, [x1, #8]\n b next"
    )
    pair.run_a_while(REMAP.format(check=poison), reader)
    assert (pair.contexts[0].x[6], pair.contexts[1].x[6]) == (0, 0)
    assert pair.contexts[0].x[1] > 0
    assert pair.contexts[1].x[5] > 0


def test_nobody_executes_the_old_page_after_tlbi_and_dsb(pair: Pair) -> None:
    """Also a PE that waits in a DSB of its own meanwhile goes on in the new page."""
    prepare_remapping(pair)
    loop = (
        "next: ldr x4, [x2, #8]\n add x4, x4, #1\n str x4, [x2, #8]\n tlbi vaae1is, xzr\n dsb ish\n"
        "b next"
    )
    for page in (DATA + PAGE, DATA + 2 * PAGE):
        own = f"movz x2, #{page >> 16:#x}, lsl #16\n movk x2, #{page & 0xFFFF:#x}\n"
        pair.memory.write(page + 0x100, assemble(own + loop))
    pair.contexts[1].x[1] = REMAPPED + 0x100
    pair.run_a_while(REMAP.format(check=STAYS), "br x1")
    assert pair.contexts[0].x[1] > 0
    assert pair.contexts[0].x[6] == 0


@pytest.mark.parametrize("text", ["b #0", "wfi\n b #-4", "next: dsb ish\n b next"])
def test_a_kick_ends_a_run_soon(pair: Pair, text: str) -> None:
    """A loop, a sleep: run() returns, with the reason."""
    for _ in range(3):
        running = pair.start(1, text)
        time.sleep(0.02)
        start = time.monotonic()
        pair.bench.machine.pe(1).kick()
        reason, _, irq = running.result(TIMEOUT)
        assert time.monotonic() - start < PROMPT
        assert (reason, irq) == (ExitReason.IRQ, IRQ_KICK)


def test_a_kick_before_the_run_is_not_lost(pair: Pair) -> None:
    """It ends the next run."""
    pair.bench.machine.pe(1).kick()
    assert pair.start(1, "wfi\n b #-4").result(TIMEOUT)[0] == ExitReason.IRQ


def test_instructions_are_counted_while_they_run(pair: Pair) -> None:
    """Another thread sees the count grow, and never sink from one run to the next."""
    pe = pair.bench.machine.pe(1)
    seen = [pe.instructions]
    for _ in range(3):
        running = pair.start(1, "b #0")
        deadline = time.monotonic() + TIMEOUT
        while seen[-1] < seen[0] + 1_000_000 and time.monotonic() < deadline:
            seen.append(pe.instructions)
        pe.kick()
        running.result(TIMEOUT)
        seen.append(pe.instructions)
        assert seen[-1] >= seen[0] + 1_000_000
        assert seen == sorted(seen)
        seen = seen[-1:]


def test_a_granule_given_away_is_out_of_reach_at_once(pair: Pair) -> None:
    """A PE that writes to it all the time faults: no store lands once tlbi_pa() has returned."""
    gpt = Gpt(pair.bench)
    raw = pair.bench.machine.buffer(Pas.NS)[DATA - BASE + PAGE :]
    text = "next: add x5, x5, #1\n str x5, [x1]\n b next"
    pair.contexts[1].x[1] = DATA + PAGE
    for _ in range(20):
        running = pair.start(1, text)
        time.sleep(0.001)
        gpt.set(DATA + PAGE, GPI_REALM)
        before = bytes(raw[:8])
        reason, esr, _ = running.result(TIMEOUT)
        assert (reason, esr >> 26, esr & 0x3F) == (ExitReason.SYNC, EC_DATA_ABORT, GPF)
        assert bytes(raw[:8]) == before
        gpt.set(DATA + PAGE, GPI_NS)


def test_a_new_gpt_holds_at_once(pair: Pair) -> None:
    """set_gpt() under a running PE: its next access passes the new table or faults."""
    running = pair.start(1, "next: ldr x5, [x0]\n b next")
    time.sleep(0.01)
    assert not running.done()
    pair.bench.machine.set_gpt(Gpt.L0, GPCCR)  # empty: nobody may access anything
    reason, esr, _ = running.result(TIMEOUT)
    assert reason == ExitReason.SYNC
    assert esr & 0x3F in {GPF, *range(GPF_WALK, GPF_WALK + 4)}
