"""The realm's host against the real Monitor and RMM: order, exits, sharing, cleanup."""

from collections.abc import Iterator
from functools import partial

import pytest

from pyvmm.arch import gic, rsi
from pyvmm.arch.errors import UserError
from pyvmm.arch.esr import ESR_ABORT, ESR_EL2, ESR_SYSREG, ExceptionClass, hpfar_of
from pyvmm.arch.events import RimExtension, RmiCall
from pyvmm.arch.exits import ExitReason
from pyvmm.arch.islet import METADATA_SIZE
from pyvmm.arch.pas import GranuleProtectionFault, Pas
from pyvmm.arch.psci import PsciFid
from pyvmm.arch.rmi import RmiFid
from pyvmm.host import realm_memory
from pyvmm.host.guest import ExitKind, Guest, Outcome, RealmOptions, Segment
from pyvmm.host.realm import Geometry, dram_needed, runs_of
from pyvmm.host.realm_memory import FAULT_AROUND
from pyvmm.host.rmi import RmiFailed
from tests.host.fakes import FakeContext, FakeExit, call, fewer_interrupts
from tests.host.platform import ENTRY, RAM_BASE, RAM_SIZE, RealmRig
from tests.rmm.metadata import realm_metadata

ALIAS = 1 << 32
UART = 0x0100_0004
PAGE = 4096
KERNEL = Segment(ENTRY, b"kernel" * 1000)
DTB = Segment(RAM_BASE + 0x20_0000, b"dtb")


smc = partial(call, ExceptionClass.SMC64)


def power_off(context: FakeContext) -> FakeExit:
    """End the realm."""
    return smc(context, PsciFid.SYSTEM_OFF)


def touch(ipa: int, **fields: int) -> FakeExit:
    """Access an address that stage 2 does not map."""
    esr = ESR_ABORT.of(EC=ExceptionClass.DATA_ABORT_LOWER, IL=1, FSC=7, **{"ISV": 1, **fields})
    return FakeExit(esr=esr, far=ipa & 0xFFF, hpfar=hpfar_of(ipa))


def set_ripas(context: FakeContext, base: int, top: int, ripas: int) -> FakeExit:
    """Request a RIPAS, also for destroyed pages."""
    return smc(context, rsi.RsiFid.RSI_IPA_STATE_SET, base, top, ripas, 1)


def run(rig: RealmRig) -> Outcome | None:
    """Run to the end, destroy it, and check that nothing is left."""
    guest: Guest = rig.realm
    try:
        guest.build()
        guest.start()
        outcome = guest.wait(10)
    finally:
        guest.close()
    assert_nothing_left(rig)
    return outcome


def assert_nothing_left(rig: RealmRig) -> None:
    """Every granule is Non-secure again, and free."""
    assert rig.monitor.leak_check() == []
    assert rig.allocator.free_size == rig.dram


def commands(rig: RealmRig, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the host's RMI commands, without successive duplicates."""
    names = [event.command for event in rig.events if isinstance(event, RmiCall)]
    names = [name.removeprefix("RMI_") for name in names]
    names = [name for name in names if name not in without]
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


def test_realm_is_built_in_the_canonical_order_and_torn_down_in_reverse() -> None:
    """This makes its initial measurement predictable from the command line."""
    rig = RealmRig(lambda c: iter([power_off(c)]), lambda _: iter(()), segments=(DTB, KERNEL))
    assert run(rig) is Outcome.OFF
    housekeeping = ("GRANULE_DELEGATE", "GRANULE_UNDELEGATE", "RTT_CREATE", "REC_AUX_COUNT")
    assert commands(rig, without=housekeeping) == [
        "VERSION",
        "FEATURES",
        "REALM_CREATE",
        "RTT_INIT_RIPAS",
        "DATA_CREATE",
        "REC_CREATE",
        "REALM_ACTIVATE",
        "REC_ENTER",
        "REC_DESTROY",
        "DATA_DESTROY",
        "RTT_DESTROY",
        "REALM_DESTROY",
    ]
    created = [e for e in rig.events if isinstance(e, RmiCall) and "DATA_CREATE" in e.command]
    ipas = [event.arguments[2] for event in created]
    assert ipas == [ENTRY, ENTRY + PAGE, RAM_BASE + 0x20_0000]
    assert all(event.arguments[4] == 1 for event in created)


def realm_with(metadata: bytes) -> RealmRig:
    """Make a realm that powers off at once, with metadata."""
    return RealmRig(lambda c: iter([power_off(c)]), options=RealmOptions(metadata=metadata))


def test_realm_has_its_owners_metadata() -> None:
    """They are set before anything is measured, and their granule is freed."""
    plain = RealmRig(lambda c: iter([power_off(c)]))
    run(plain)
    rim = [event.rim for event in plain.events if isinstance(event, RimExtension)][-1]
    block = bytes(realm_metadata(rim=rim).data)[:METADATA_SIZE]
    rig = realm_with(block)
    assert run(rig) is Outcome.OFF
    assert commands(rig).index("ISLET_REALM_SET_METADATA") < commands(rig).index("RTT_INIT_RIPAS")


@pytest.mark.parametrize(
    ("damage", "complaint"), [(0, "made for another realm"), (1, "not valid or not signed")]
)
def test_metadata_that_do_not_fit_are_the_users_mistake(damage: int, complaint: str) -> None:
    """The RMM rejects them, and nothing of the realm is left."""
    block = bytearray(realm_metadata().data)
    block[0x90] ^= damage
    with pytest.raises(UserError, match=complaint):
        run(rig := realm_with(bytes(block)))
    assert_nothing_left(rig)


def test_ripas_is_declared_in_the_largest_entries() -> None:
    """4 MiB are two entries of 2 MiB in the start tables: one command, without other tables."""
    rig = RealmRig(lambda c: iter([power_off(c)]))
    run(rig)
    names = [(e.command, e.arguments) for e in rig.events if isinstance(e, RmiCall)]
    init = [n for n, (name, _) in enumerate(names) if name == "RMI_RTT_INIT_RIPAS"]
    tables = [args[3] for name, args in names[: init[-1]] if name == "RMI_RTT_CREATE"]
    assert not tables
    assert names[init[-1]][1][1:] == (RAM_BASE, RAM_BASE + RAM_SIZE)


def test_boot_rec_starts_as_configured() -> None:
    """Entry point and x0; the others are off."""
    seen: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        seen.extend((context.pc, context.x[0], context.vmpidr_el2 & 0xFF))
        yield power_off(context)

    run(RealmRig(guest))
    assert seen == [ENTRY, 0x1234, 0]


def test_device_accesses_are_seen_at_the_alias() -> None:
    """The bus gets the address without its top bit; a load is extended by the RMM."""
    values: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.x[7] = 0x1_2345
        yield touch(ALIAS | UART, SRT=7, WnR=1)
        yield touch(ALIAS | UART, SRT=9, SSE=1, SF=1)
        values.append(context.x[9])
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF
    assert rig.bus.log == [("write", UART, 1, 0x45), ("read", UART, 1, 0x80)]
    assert values == [0xFFFF_FFFF_FFFF_FF80]


def test_device_write_is_repeated_when_the_device_says_so() -> None:
    """The realm does not continue after the store until it is complete."""
    places: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        for _ in range(2):
            yield touch(ALIAS | UART, SRT=7, WnR=1)
            places.append(context.pc - ENTRY)
        yield power_off(context)

    rig = RealmRig(guest)
    rig.bus.num_repeats = 1
    assert run(rig) is Outcome.OFF
    assert places == [0, 4]


def test_indescribable_device_access_is_an_external_abort() -> None:
    """Without a syndrome the host cannot emulate: the realm gets a SEA."""
    seen: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.pstate = 5
        yield touch(ALIAS | UART, ISV=0)
        seen.append(context.esr_el1 & 0x3F)
        yield power_off(context)

    assert run(RealmRig(guest)) is Outcome.OFF
    assert seen == [0x10]


def test_memory_of_a_realm_is_not_to_be_released() -> None:
    """Its host cannot take a page: the realm would lose it, or the RMM would refuse."""
    rig = RealmRig(lambda c: iter([power_off(c)]))
    with pytest.raises(GranuleProtectionFault):
        rig.realm.release(RAM_BASE, PAGE)
    assert run(rig) is Outcome.OFF


def test_exits_are_counted_by_kind() -> None:
    """A device access, two kinds of missing memory, a change of RIPAS, the end."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(ALIAS | UART)
        yield touch(RAM_BASE + 0x5000)
        yield set_ripas(context, RAM_BASE + 0x10_0000, RAM_BASE + 0x10_1000, 0)
        yield touch(ALIAS | RAM_BASE + 0x10_0000)
        yield FakeExit(esr=ESR_EL2.of(EC=ExceptionClass.WFX, IL=1))
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF
    counts = {ExitKind(n): count for n, count in enumerate(rig.realm.exits[0]) if count}
    assert counts.pop(ExitKind.IRQ, 0) == 0
    assert counts == {
        ExitKind.MMIO: 1,
        ExitKind.FAULT: 2,
        ExitKind.RIPAS: 1,
        ExitKind.WFX: 1,
        ExitKind.PSCI: 1,
    }


def test_last_exit_and_call_are_remembered() -> None:
    """They are recorded as the host sees them; the registers are hidden."""

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield set_ripas(context, RAM_BASE + 0x10_0000, RAM_BASE + 0x10_1000, 0)
        yield touch(ALIAS | UART)
        yield FakeExit(ExitReason.SERROR)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.CRASHED
    (state,) = rig.realm.vcpu_states()
    assert state.last.esr is not None
    assert ESR_EL2(state.last.esr).EC is ExceptionClass.DATA_ABORT_LOWER
    assert (state.last.ipa, state.last.call) == (UART, rsi.RsiFid.RSI_IPA_STATE_SET)
    assert state.registers is None


def test_missing_private_memory_is_given_with_its_neighbours() -> None:
    """One fault maps many granules; the host cannot read any of them."""
    refused: list[bool] = []
    counts: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(RAM_BASE + 0x5000)
        leaked = rig.monitor.leak_check()
        counts.append(sum(1 for e in rig.events if "UNKNOWN" in getattr(e, "command", "")))
        for pa in leaked:
            try:
                rig.ns.read(pa, 1)
            except GranuleProtectionFault:
                refused.append(True)
            else:
                refused.append(False)
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF
    assert counts == [FAULT_AROUND]
    assert all(refused)
    assert len(refused) > FAULT_AROUND


def test_devices_reach_exactly_what_the_realm_shares() -> None:
    """A page is private, then shared (by either address), then private: contents never leak."""
    base = RAM_BASE + 0x10_0000
    results: list[object] = []

    def attempt(addr: int, size: int = 4) -> object:
        try:
            return rig.realm.dma.read(addr, size)
        except GranuleProtectionFault:
            return "refused"

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(base)
        results.append(attempt(base))
        yield set_ripas(context, base, base + 2 * PAGE, 0)
        assert context.x[:3] == [0, base + 2 * PAGE, 0]
        yield touch(ALIAS | base)
        rig.realm.dma.write(ALIAS | base + PAGE - 2, b"ring")
        results.extend((attempt(base + PAGE - 2), attempt(base - 1, 2)))
        results.append(attempt(base + PAGE, PAGE + 1))
        yield set_ripas(context, base, base + PAGE, 1)
        results.append(attempt(base))
        yield touch(base)
        yield touch(ALIAS | base)
        results.append(context.esr_el1 & 0x3F)
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF
    assert results == ["refused", b"ring", "refused", "refused", "refused", 0x10]


def test_a_page_is_not_given_away_while_a_device_transfers() -> None:
    """The realm takes a shared page back in the middle of it: its next access waits for the end."""
    page = RAM_BASE + 0x3000
    seen: list[object] = []

    def delegations() -> int:
        calls = [event for event in rig.events if isinstance(event, RmiCall)]
        return sum("DATA_CREATE_UNKNOWN" in each.command for each in calls)

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(ALIAS | page)
        transfer = rig.realm.dma.begin_transfer()
        window = rig.realm.dma.view(page, 4)
        yield set_ripas(context, page, page + PAGE, 1)
        yield touch(page + PAGE)  # pages around it are not affected
        before = delegations()
        yield touch(page)
        yield touch(page)
        window[:] = b"late"
        seen.append(delegations() - before)
        later = rig.realm.dma.begin_transfer()  # it cannot have a view of the page
        rig.realm.dma.end_transfer(transfer)
        yield touch(page)
        seen.append(delegations() - before)
        rig.realm.dma.end_transfer(later)
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF
    assert seen == [0, 1]


def test_a_page_that_is_shared_again_is_not_held() -> None:
    """The end of a transfer from before changes nothing."""
    page = RAM_BASE + 0x3000

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(ALIAS | page)
        transfer = rig.realm.dma.begin_transfer()
        yield set_ripas(context, page, page + PAGE, 1)
        yield set_ripas(context, page, page + PAGE, 0)
        rig.realm.dma.end_transfer(transfer)
        yield touch(ALIAS | page)
        rig.realm.dma.write(page, b"shared")
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF


def test_large_shared_area_is_one_block_until_part_of_it_is_private_again() -> None:
    """2 MiB of swiotlb cause one fault; making one page private unmaps the block."""
    base = RAM_BASE + 0x20_0000

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield set_ripas(context, base, base + 0x20_0000, 0)
        yield touch(ALIAS | base + 0x7000)
        rig.realm.dma.write(base + 0x1F_F000, b"last page")
        yield set_ripas(context, base + PAGE, base + 2 * PAGE, 1)
        yield touch(base + PAGE)
        yield touch(ALIAS | base)
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF
    maps = [e for e in rig.events if isinstance(e, RmiCall) and "MAP_UNPROT" in e.command]
    shown = [(e.command[8:], e.arguments[1] - ALIAS - base, e.arguments[2]) for e in maps]
    assert shown == [
        ("MAP_UNPROTECTED", 0, 2),
        ("UNMAP_UNPROTECTED", 0, 2),
        ("MAP_UNPROTECTED", 0, 3),
        ("UNMAP_UNPROTECTED", 0, 3),
    ]


def test_large_ripas_request_is_done_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The realm gets the end of each step: between two steps it can be stopped."""
    monkeypatch.setattr(realm_memory, "RIPAS_STEP", 0x10_0000)
    base, top = RAM_BASE + 0x8_0000, RAM_BASE + 0x28_0000
    reached: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        place = base
        while place != top:
            yield set_ripas(context, place, top, 0)
            place = context.x[1]
            reached.append(place - RAM_BASE)
        yield power_off(context)

    assert run(RealmRig(guest)) is Outcome.OFF
    assert reached == [0x10_0000, 0x20_0000, 0x28_0000]


def test_alias_of_an_untouched_page_is_shared_and_then_private() -> None:
    """The last use wins while the realm has no data there."""
    page = RAM_BASE + 0x3000

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(ALIAS | page)
        assert rig.realm.dma.read(page, 4) == bytes(4)
        yield touch(page)
        with pytest.raises(GranuleProtectionFault):
            rig.realm.dma.read(page, 4)
        yield power_off(context)

    rig = RealmRig(guest)
    assert run(rig) is Outcome.OFF


@pytest.mark.parametrize(
    ("base", "top", "reply"),
    [
        pytest.param(0x1000_0000, 0x1000_1000, [0, 0x1000_0000, 1], id="below RAM"),
        pytest.param(RAM_BASE, RAM_BASE + RAM_SIZE, [0, RAM_BASE + RAM_SIZE, 0], id="all RAM"),
        pytest.param(
            RAM_BASE + RAM_SIZE - PAGE,
            RAM_BASE + RAM_SIZE + PAGE,
            [0, RAM_BASE + RAM_SIZE, 0],
            id="over the end",
        ),
    ],
)
def test_ripas_requests_are_done_for_ram_only(base: int, top: int, reply: list[int]) -> None:
    """A range outside RAM is refused, one that crosses the end is done in part."""
    replies: list[list[int]] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield set_ripas(context, base, top, 1)
        replies.append(context.x[:3])
        yield power_off(context)

    assert run(RealmRig(guest)) is Outcome.OFF
    assert replies[0][:2] == reply[:2]
    if reply[2]:
        assert replies[0][2] == reply[2]


@pytest.mark.parametrize("target", [1, 0x8000_0001, 0xABCD_EF00_F500_00F1])
def test_cpu_on_starts_the_second_vcpu_and_cpu_off_parks_it(target: int) -> None:
    """The RMM owns the power states; the host follows, and accepts the same MPIDRs."""
    seen: list[int] = []

    def second(context: FakeContext) -> Iterator[FakeExit]:
        seen.extend((context.pc, context.x[0]))
        yield smc(context, PsciFid.CPU_OFF)

    def first(context: FakeContext) -> Iterator[FakeExit]:
        yield smc(context, PsciFid.CPU_ON_64, target, ENTRY + 64, 77)
        assert context.x[0] == 0
        for _ in range(100_000):
            yield smc(context, PsciFid.AFFINITY_INFO_64, 1, 0)
            if context.x[0] == 1:
                break
        yield power_off(context)

    assert run(RealmRig(first, second)) is Outcome.OFF
    assert seen == [ENTRY + 64, 77]


def test_vcpu_can_be_turned_off_and_on_again_many_times() -> None:
    """No CPU_ON is lost while the other thread parks."""
    rounds = 40
    seen: list[int] = []

    def second(context: FakeContext) -> Iterator[FakeExit]:
        for _ in range(rounds):
            seen.append(context.x[0])
            yield smc(context, PsciFid.CPU_OFF)

    def first(context: FakeContext) -> Iterator[FakeExit]:
        for n in range(rounds):
            yield smc(context, PsciFid.CPU_ON_64, 1, ENTRY, n)
            while context.x[0] != 1:
                yield smc(context, PsciFid.AFFINITY_INFO_64, 1, 0)
        yield power_off(context)

    assert run(RealmRig(first, second)) is Outcome.OFF
    assert seen == list(range(rounds))


def test_sgi_and_timer_reach_a_realm_through_list_registers() -> None:
    """A trapped ICC_SGI1R_EL1 and the virtual timer's output."""
    listed: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        context.x[4] = 1 | 6 << 24
        esr = ESR_SYSREG.of(EC=ExceptionClass.SYSREG, IL=1, OP0=3, CRN=12, CRM=11, OP2=5, RT=4)
        yield FakeExit(esr=esr)
        context.cntv_ctl = 5
        yield FakeExit(ExitReason.IRQ, irq=2)
        listed.extend(lr & 0xFFFF_FFFF for lr in context.ich_lr[:2])
        yield power_off(context)

    rig = RealmRig(guest)
    rig.vgic.cpus[0].private.enabled = 0xFFFF_FFFF
    rig.vgic.groups = gic.GICD_CTLR_GRP1
    assert run(rig) is Outcome.OFF
    assert listed == [6, 27]


def test_list_registers_without_an_interrupt_become_zero() -> None:
    """Only those in use are written at an entry, and those that were in use before."""
    listed: list[list[int]] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield from fewer_interrupts(context, listed)
        yield power_off(context)

    rig = RealmRig(guest)
    rig.vgic.cpus[0].private.enabled = 0xFFFF_FFFF
    rig.vgic.groups = gic.GICD_CTLR_GRP1
    assert run(rig) is Outcome.OFF
    assert listed == [[27, 30, 0, 0], [30, 0, 0, 0], [0, 0, 0, 0]]


def test_stop_ends_a_realm_that_sleeps() -> None:
    """A kick makes the REC exit, and its thread ends."""
    rig = RealmRig(lambda _: iter(()))
    rig.realm.build()
    rig.realm.start()
    assert rig.realm.wait(0.02) is None
    rig.realm.stop()
    assert rig.realm.wait(10) is Outcome.STOPPED
    rig.realm.close()
    assert_nothing_left(rig)


def test_close_of_a_realm_that_never_started_gives_its_memory_back() -> None:
    """Nothing was built, so nothing is destroyed."""
    rig = RealmRig(lambda _: iter(()))
    rig.realm.close()
    assert_nothing_left(rig)
    assert commands(rig) == []


def test_close_undoes_a_building_that_failed() -> None:
    """A payload outside RAM is refused half way; every granule is freed."""
    rig = RealmRig(lambda _: iter(()), segments=(KERNEL, Segment(ALIAS, b"x")))
    with pytest.raises(ValueError, match="outside RAM"):
        rig.realm.build()
    rig.realm.close()
    assert_nothing_left(rig)


@pytest.mark.parametrize("is_seen", [True, False])
@pytest.mark.parametrize("what", ["granule", "page"])
def test_row_that_is_refused_half_way_leaves_nothing_behind(what: str, is_seen: bool) -> None:
    """What the RMM took stays the realm's until its end; the rest comes back at once."""
    rig = RealmRig(lambda _: iter(()), segments=(KERNEL,))
    rig.realm.build()
    if not is_seen:
        rig.rmm.events.listener = None
    memory, smc_of_host = rig.realm._memory, rig.monitor.conduit(Pas.NS).smc
    ipa = RAM_BASE + 8 * FAULT_AROUND * PAGE
    pa, other = memory._pa_of(ipa + 5 * PAGE), rig.allocator.allocate()
    memory._make_tables(0, ipa, 3)
    if what == "granule":
        smc_of_host(0, (RmiFid.RMI_GRANULE_DELEGATE, pa))
    else:
        smc_of_host(0, (RmiFid.RMI_GRANULE_DELEGATE, other))
        page = ipa + 5 * PAGE
        call = (RmiFid.RMI_DATA_CREATE_UNKNOWN, rig.realm._rd or 0, other, page)
        assert smc_of_host(0, call)[0] == 0
    before = len(rig.monitor.leak_check())
    with pytest.raises(RmiFailed):
        memory.back(0, ipa)
    assert len(rig.monitor.leak_check()) == before + (5 if what == "page" else 0)
    if what == "granule":
        smc_of_host(0, (RmiFid.RMI_GRANULE_UNDELEGATE, pa))
    else:
        smc_of_host(0, (RmiFid.RMI_DATA_DESTROY, rig.realm._rd or 0, ipa + 5 * PAGE))
        smc_of_host(0, (RmiFid.RMI_GRANULE_UNDELEGATE, other))
    rig.realm.close()
    assert rig.monitor.leak_check() == []


def test_building_can_be_ended_and_leaves_a_realm_that_never_ran() -> None:
    """An exception of the progress function ends it; the realm is never activated."""
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done:
            raise InterruptedError

    payload = Segment(RAM_BASE, bytes(PAGE * 200))
    rig = RealmRig(lambda _: iter(()), segments=(payload,))
    with pytest.raises(InterruptedError):
        rig.realm.build(progress)
    assert seen == [(0, 200), (64, 200)]
    rig.realm.close()
    assert_nothing_left(rig)
    assert "REALM_ACTIVATE" not in commands(rig)


def test_built_realm_is_new_until_it_is_started() -> None:
    """Everything except the activation is done: it is measured, and no PE has run."""
    rig = RealmRig(lambda _: iter(()))
    rig.realm.build()
    assert commands(rig)[-1] == "REC_CREATE"
    assert rig.realm.exits == [[0] * len(ExitKind)]
    rig.realm.close()
    assert_nothing_left(rig)


@pytest.mark.parametrize(("algo", "size"), [("sha256", 32), ("sha512", 64)])
def test_options_reach_the_realm(algo: str, size: int) -> None:
    """The realm reads its measurement's size and its personalisation value."""
    seen: list[bytes] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield smc(context, rsi.RsiFid.RSI_MEASUREMENT_READ, 0)
        seen.append(b"".join(x.to_bytes(8, "little") for x in context.x[1:9]).rstrip(b"\0"))
        yield power_off(context)

    rig = RealmRig(guest, options=RealmOptions(algo, b"me"))
    assert run(rig) is Outcome.OFF
    assert size - 2 <= len(seen[0]) <= size


def test_no_secret_is_left_in_non_secure_memory() -> None:
    """Private data of the realm never appears in the Non-secure space, during or after its life."""
    secret = b"the realm's own secret"
    found: list[int] = []

    def guest(context: FakeContext) -> Iterator[FakeExit]:
        yield touch(RAM_BASE)
        pa = rig.realm._memory._pa
        rig.machine.memory(Pas.REALM).write(pa, secret)
        found.append(rig.ns.data.find(secret))
        yield power_off(context)

    rig = RealmRig(guest)
    run(rig)
    assert [*found, rig.ns.data.find(secret)] == [-1, -1]
    assert rig.machine.memories[Pas.REALM].data.find(secret) == -1


def test_runs_of_joins_segments_that_share_a_page() -> None:
    """Ascending pages, zeros between."""
    segments = [Segment(0x2FFE, b"cdef"), Segment(0x1004, b"ab"), Segment(0x5000, b"")]
    pages = {ipa: bytes(data) for ipa, data in runs_of(segments)}
    assert list(pages) == [0x1000, 0x2000, 0x3000]
    assert pages[0x1000] == bytes(4) + b"ab" + bytes(PAGE - 6)
    assert pages[0x2000][-2:] + pages[0x3000][:3] == b"cdef\0"
    joined = dict(runs_of([Segment(0x1000, b"a"), Segment(0x1FFF, b"z")]))
    assert joined == {0x1000: b"a" + bytes(PAGE - 2) + b"z"}


@pytest.mark.parametrize(
    ("ram_end", "expected"),
    [
        (0x9000_0000, (33, 2, 8)),
        (1 << 33, (34, 2, 16)),
        ((1 << 33) + 1, (35, 1, 1)),
        ((1 << 38) + 1, (40, 1, 2)),
    ],
)
def test_geometry_is_the_narrowest_with_the_fewest_levels(
    ram_end: int, expected: tuple[int, int, int]
) -> None:
    """RAM fits into the protected half."""
    geometry = Geometry.of(ram_end)
    assert (geometry.ipa_bits, geometry.start_level, geometry.num_start_tables) == expected
    assert geometry.alias >= ram_end


def test_dram_needed_is_enough_for_the_worst_sharing() -> None:
    """The estimate grows with RAM and leaves room for the tables of both halves."""
    assert dram_needed(512 << 20, 1) - (512 << 20) < 8 << 20
    assert dram_needed(RAM_SIZE, 2) > RAM_SIZE
