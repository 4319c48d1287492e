"""The states of an instance: the transitions, and their reports."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pyvmm.arch.errors import UserError
from pyvmm.arch.rmi import RmiFid, RmiStatus
from pyvmm.devices.bus import Bus
from pyvmm.devices.disk import RawDisk
from pyvmm.host.guest import Outcome
from pyvmm.host.rmi import RmiFailed
from pyvmm.vm import memory_map
from pyvmm.vm.control.api import NetworkCard, State, Status
from pyvmm.vm.control.lifecycle import Lifecycle
from pyvmm.vm.exit_code import ExitCode, Failure
from pyvmm.vm.network_options import parse_networks
from pyvmm.vm.option_values import DiskOptions
from pyvmm.vm.options import VmOptions
from tests.vm.stage import END_OF_PANIC, OwnerThread, show
from tests.waiting import wait_until

CONTROLS: dict[str, Callable[[Lifecycle], object]] = {
    "start": Lifecycle.start,
    "pause": Lifecycle.pause,
    "resume": Lifecycle.resume,
    "statistics": Lifecycle.statistics,
    "type": lambda lifecycle: lifecycle.type(b"x"),
    "resize": lambda lifecycle: lifecycle.resize(80, 24),
    "debug": Lifecycle.debug,
    "sysrq": lambda lifecycle: lifecycle.sysrq("h"),
    "nmi": lambda lifecycle: lifecycle.nmi(0),
}
LOOKS = ("statistics", "type", "resize", "debug")


@pytest.fixture
def owner() -> Iterator[OwnerThread]:
    """Return a new instance."""
    with OwnerThread() as made:
        made.until(State.NEW)
        yield made


def states(owner: OwnerThread) -> list[State]:
    """Return the states that the listener got."""
    return [status.state for status in owner.told]


def test_the_whole_life(owner: OwnerThread) -> None:
    """The listener gets each state, and the guest executes each control."""
    lifecycle = owner.lifecycle
    assert lifecycle.start().state == State.RUNNING
    assert lifecycle.pause().state == State.PAUSED
    assert lifecycle.resume().state == State.RUNNING
    assert lifecycle.stop().state == State.STOPPED
    assert owner.end() is ExitCode.QUIT
    assert states(owner) == ["new", "running", "paused", "running", "shut off"]
    assert owner.guest.calls == ["start", "pause", "resume"]
    assert owner.guest.is_closed
    last = owner.told[-1]
    assert (last.exit_code, last.reason) == (ExitCode.QUIT, "")
    assert last.created <= (last.started or 0) <= (last.ended or 0)


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        (State.NEW, {"start", *LOOKS}),
        (State.RUNNING, {"pause", "resume", "sysrq", "nmi", *LOOKS}),
        (State.PAUSED, {"pause", "resume", "sysrq", "nmi", *LOOKS}),
        (State.STOPPED, set()),
    ],
)
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_refused_where_it_makes_no_sense(
    owner: OwnerThread, state: State, allowed: set[str], control: str
) -> None:
    """The error is one line with the reason; the state does not change."""
    if state != State.NEW:
        owner.lifecycle.start()
    if state == State.PAUSED:
        owner.lifecycle.pause()
    if state == State.STOPPED:
        owner.lifecycle.stop()
    before = states(owner)
    if control in allowed:
        CONTROLS[control](owner.lifecycle)
        return
    with pytest.raises(UserError, match=rf"^r1 is {state}: (it|its|start) "):
        CONTROLS[control](owner.lifecycle)
    assert states(owner) == before


def test_nothing_can_be_done_while_it_is_built() -> None:
    """Only stopping is possible."""
    lifecycle = Lifecycle(VmOptions(name="r1"))
    for control in CONTROLS.values():
        with pytest.raises(UserError, match="r1 is building: it is not complete yet"):
            control(lifecycle)


@pytest.mark.parametrize("is_started", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_stop_ends_it_whoever_asks(owner: OwnerThread, *, is_started: bool, count: int) -> None:
    """After one or several simultaneous calls, all callers see it shut off."""
    if is_started:
        owner.lifecycle.start()
    seen: list[Status] = []
    threads = [
        threading.Thread(target=lambda: seen.append(owner.lifecycle.stop())) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [status.state for status in seen] == [State.STOPPED] * count
    assert owner.lifecycle.stop().exit_code == ExitCode.QUIT
    assert not owner.lifecycle.is_destroyed


def test_destroy_is_a_stop_that_its_owner_knows_of(owner: OwnerThread) -> None:
    """The owner removes the files."""
    owner.lifecycle.destroy()
    assert owner.lifecycle.is_destroyed
    assert states(owner)[-1] == State.STOPPED


def test_one_of_many_starts_it(owner: OwnerThread) -> None:
    """The others get the error that it has been started."""
    results: list[str] = []

    def start() -> None:
        try:
            owner.lifecycle.start()
            results.append("started")
        except UserError as error:
            results.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == [*["r1 is running: it was started already"] * 7, "started"]
    assert owner.guest.calls == ["start"]


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        (lambda _: Outcome.OFF, ExitCode.OK, ""),
        (lambda _: Outcome.CRASHED, ExitCode.CRASHED, "a reason"),
        (lambda bus: show(bus, END_OF_PANIC), ExitCode.PANIC, ""),
    ],
)
def test_status_says_how_it_ended(
    owner: OwnerThread, script: Callable[[Bus], Outcome | None], code: ExitCode, reason: str
) -> None:
    """It has the exit code, and a reason if the code does not say everything."""
    owner.stage.guest._script = script  # type: ignore[union-attr]
    owner.lifecycle.start()
    assert owner.end() is code
    status = owner.lifecycle.status
    assert (status.state, status.exit_code, status.reason) == (State.STOPPED, code, reason)


def test_timeout_counts_from_the_start() -> None:
    """A new instance may wait for its start without limit."""
    with OwnerThread(timeout=0.05) as owner:
        owner.until(State.NEW)
        owner._thread.join(0.2)
        assert owner._thread.is_alive()
        owner.lifecycle.start()
        assert owner.end() is ExitCode.TIMEOUT
    assert owner.lifecycle.status.reason == "stopped after 0.05 s"


@pytest.mark.parametrize(
    ("last", "code"), [(Outcome.OFF, ExitCode.OK), (Outcome.CRASHED, ExitCode.CRASHED)]
)
def test_a_reboot_starts_the_same_guest_again(last: Outcome, code: ExitCode) -> None:
    """Each time with new devices; the listener gets the states, and the console log continues."""
    with OwnerThread(VmOptions(name="r1", on_reboot="restart")) as owner:
        outcomes = iter((Outcome.RESET, Outcome.RESET, last))
        guests = []

        def script(bus: Bus) -> Outcome:
            guests.append(owner.guest)
            assert bus.read(memory_map.UART_BASE + 7, 1) == 0  # the scratch register
            bus.write(memory_map.UART_BASE + 7, 1, 5)
            show(bus, b"hello\n")
            return next(outcomes)

        owner.until(State.NEW)
        owner.guest._script = owner.stage.script = script
        owner.lifecycle.start()
        assert owner.end() is code
    assert [guest.is_closed for guest in guests] == [True] * 3
    assert len(set(map(id, guests))) == 3
    assert owner.lifecycle.console_log.tail() == b"hello\n" * 3
    assert owner.lifecycle.status.reboots == 2
    again = ["building", "running"]
    told = [each.state for each in owner.told if each.state != State.NEW]
    assert told in (["running", *again, *again, "shut off"], [*again, *again, "shut off"])


def test_a_reboot_ends_a_guest_by_default(owner: OwnerThread) -> None:
    """With exit code 0, as in kvmtool."""
    owner.guest._script = lambda _: Outcome.RESET
    owner.lifecycle.start()
    assert owner.end() is ExitCode.OK
    assert owner.lifecycle.status.reboots == 0


def test_a_panic_with_a_reboot_is_not_restarted() -> None:
    """It would panic again."""

    def script(bus: Bus) -> Outcome:
        show(bus, b"Kernel panic - not syncing: x\n")
        return Outcome.RESET

    with OwnerThread(VmOptions(name="r1", on_reboot="restart")) as owner:
        owner.until(State.NEW)
        owner.guest._script = script
        owner.lifecycle.start()
        assert owner.end() is ExitCode.PANIC


def test_a_guest_that_always_reboots_can_be_stopped() -> None:
    """At any moment of a reboot; and the time-out counts from the first start."""
    for timeout, code in ((None, ExitCode.QUIT), (0.2, ExitCode.TIMEOUT)):
        with OwnerThread(VmOptions(name="r1", on_reboot="restart"), timeout) as owner:
            owner.until(State.NEW)
            owner.guest._script = owner.stage.script = lambda _: Outcome.RESET
            owner.lifecycle.start()
            wait_until(lambda owner=owner: owner.lifecycle.status.reboots > 9)  # type: ignore[misc]
            if timeout is None:
                owner.lifecycle.stop()
            assert owner.end() is code
            assert owner.guest.is_closed


def test_building_is_reported_and_can_be_stopped() -> None:
    """All resources are released."""
    shares: list[tuple[str, float]] = []
    for name, options in (
        ("loading", VmOptions(name="r1")),
        ("measuring", VmOptions(name="r1", is_realm=True)),
    ):
        owner = OwnerThread(options)

        def report(doing: str, share: float, owner: OwnerThread = owner) -> None:
            shares.append((doing, share))
            owner.lifecycle.quit()

        assert owner.lifecycle.run(owner.assemble, report=report) is ExitCode.QUIT
        assert shares.pop() == (name, 0.0)
        assert not shares
        assert owner.guest.is_closed
        assert states(owner) == ["shut off"]
        owner.stage.close()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            RmiFailed(RmiFid.RMI_REALM_CREATE, (1, 2), RmiStatus.ERROR_INPUT),
            ExitCode.REFUSED,
            "the RMM refused RMI_REALM_CREATE: ERROR_INPUT, an argument is invalid",
        ),
        (MemoryError("no 0x1000 bytes"), ExitCode.REFUSED, "not enough memory for the guest"),
        (UserError("a mistake"), ExitCode.BAD_INPUT, "a mistake"),
        (Failure(ExitCode.UNREACHABLE, "a failure"), ExitCode.UNREACHABLE, "a failure"),
    ],
)
def test_what_cannot_be_built_is_a_line_and_a_code(
    error: Exception, code: ExitCode, line: str
) -> None:
    """The creator gets it, and the status has it."""
    owner = OwnerThread()

    def report(_doing: str, _share: float) -> None:
        raise error

    with pytest.raises((Failure, UserError)) as caught:
        owner.lifecycle.run(owner.assemble, report=report)
    assert str(caught.value).startswith(line)
    assert owner.lifecycle.status.exit_code == code
    assert owner.lifecycle.status.reason == str(caught.value)
    assert owner.guest.is_closed
    owner.stage.close()


def test_our_own_defect_is_no_secret() -> None:
    """It is raised, and the status reports it."""
    owner = OwnerThread()

    def report(_doing: str, _share: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        owner.lifecycle.run(owner.assemble, report=report)
    assert owner.lifecycle.status.exit_code == ExitCode.INTERNAL
    assert owner.guest.is_closed
    owner.stage.close()


@pytest.mark.parametrize("is_failing", [False, True])
def test_disks_are_flushed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_failing: bool
) -> None:
    """This happens without a request from the guest; the exit code shows a failure."""
    flushed: list[bool] = []

    def flush(_disk: RawDisk) -> None:
        flushed.append(True)
        if is_failing:
            raise OSError(5, "Input/output error")

    (tmp_path / "disk").write_bytes(bytes(4096))
    (tmp_path / "other").write_bytes(bytes(4096))
    monkeypatch.setattr(RawDisk, "flush", flush)
    disks = (DiskOptions(tmp_path / "disk"), DiskOptions(tmp_path / "other", is_read_only=True))
    with OwnerThread(VmOptions(name="r1", disks=disks)) as owner:
        owner.until(State.NEW)
        owner.lifecycle.stop()
    assert flushed == [True]
    status = owner.lifecycle.status
    if is_failing:
        assert status.exit_code == ExitCode.STORAGE
        assert "Input/output error" in status.reason
        assert isinstance(owner.error, Failure)
    else:
        assert status.exit_code == ExitCode.QUIT
    RawDisk(tmp_path / "disk").close()  # it is not locked any more


def test_a_realm_that_cannot_be_activated_ends(owner: OwnerThread) -> None:
    """The caller of start and the owner get the reason."""

    def refuse(_bus: Bus) -> None:
        raise RmiFailed(RmiFid.RMI_REALM_ACTIVATE, (1,), RmiStatus.ERROR_REALM)

    owner.stage.guest._script = refuse  # type: ignore[union-attr]
    with pytest.raises(
        Failure, match="RMI_REALM_ACTIVATE: ERROR_REALM, the realm's state does not"
    ):
        owner.lifecycle.start()
    owner.end()
    assert owner.lifecycle.status.state == State.STOPPED
    assert owner.lifecycle.status.exit_code == ExitCode.REFUSED


def test_balloon_is_resized_within_the_memory() -> None:
    """A guest without a balloon and a target out of range cause an error."""
    with OwnerThread(VmOptions(name="r1", ram_size=64 << 20, has_balloon=True)) as owner:
        owner.until(State.NEW)
        balloon = owner.lifecycle.balloon
        assert balloon(8 << 20).target == 8 << 20
        assert balloon(-(3 << 20)).target == 5 << 20
        for change in (-(6 << 20), 60 << 20):
            with pytest.raises(UserError, match="r1's balloon has 5 MiB; it cannot have"):
                balloon(change)
        assert balloon(0).target == 5 << 20
        owner.lifecycle.start()
        for change in (0, 1 << 20):
            with pytest.raises(UserError, match="r1 has no driver for its balloon: wait until"):
                balloon(change)
    with OwnerThread(VmOptions(name="r1", is_realm=True)) as owner:
        owner.until(State.NEW)
        with pytest.raises(UserError, match="the host cannot take its memory"):
            owner.lifecycle.balloon(0)
    with OwnerThread() as owner:
        owner.until(State.NEW)
        with pytest.raises(UserError, match="create it with --balloon"):
            owner.lifecycle.balloon(0)


def test_network_card_is_unplugged_by_its_name(tmp_path: Path) -> None:
    """The state of all cards is the answer; a card that does not exist causes an error."""
    networks = parse_networks([f"mode=socket,listen={tmp_path}/{name}" for name in "ab"])
    with OwnerThread(VmOptions(name="r1", networks=networks)) as owner:
        owner.until(State.NEW)
        network = owner.lifecycle.network
        first, second = network("", is_plugged=True)
        assert first == NetworkCard("net0", "02:15:15:15:15:15", 1500, 1, is_up=True)
        assert network(second.name, is_plugged=False) == [first, replace(second, is_up=False)]
        assert network(second.name, is_plugged=True) == [first, second]
        with pytest.raises(UserError, match="r1 has no network card net7: give net0, net1"):
            network("net7", is_plugged=False)
    with OwnerThread() as owner:
        owner.until(State.NEW)
        assert owner.lifecycle.network("", is_plugged=True) == []
        with pytest.raises(UserError, match="no network card net0: create it with -n"):
            owner.lifecycle.network("net0", is_plugged=True)


def test_status_has_the_measurement(owner: OwnerThread) -> None:
    """The status has it once the realm is measured."""
    assert owner.lifecycle.status.rim == "1234"
    assert Lifecycle(VmOptions(name="r1", is_realm=True)).status.rim is None


def test_statistics_name_what_they_count(owner: OwnerThread) -> None:
    """Exits are by kind, memory by physical address space, devices by name."""
    statistics = owner.lifecycle.statistics()
    (vcpu,) = statistics.vcpus
    assert vcpu.instructions == 7
    assert vcpu.exits["mmio"] == vcpu.exits["host_call"] == 1
    assert set(statistics.memory) == {"ns", "secure", "realm", "root"}
    assert statistics.memory["realm"].resident == 4096
    assert statistics.devices["console"] == {"output_bytes": 0}
    assert statistics.rmi is None


def test_statistics_of_a_realm_name_its_revision() -> None:
    """The one that its host uses."""
    with OwnerThread(options=VmOptions(name="r1", is_realm=True, rmi="2.0")) as realm:
        realm.until(State.NEW)
        assert realm.lifecycle.statistics().rmi == "2.0"


def test_sysrq_is_a_break_and_a_key(owner: OwnerThread) -> None:
    """The serial port gets them; an invalid key is rejected."""
    owner.lifecycle.start()
    owner.lifecycle.sysrq("h")
    bus = owner.guest.bus
    bus.write(memory_map.UART_BASE + 1, 1, 1)  # IER.RDI
    read = [bus.read(memory_map.UART_BASE + offset, 1) for offset in (5, 0, 0)]
    assert read == [0x71, 0, ord("h")]
    for key in ("", "hh", "\x00", "é", "-"):
        with pytest.raises(UserError, match="give one letter or digit"):
            owner.lifecycle.sysrq(key)


def test_an_serror_is_for_a_cpu_that_there_is(owner: OwnerThread) -> None:
    """The guest gets it; a number out of range is rejected."""
    owner.lifecycle.start()
    owner.lifecycle.nmi(0)
    for cpu in (-1, 1):
        with pytest.raises(UserError, match="the guest has 1"):
            owner.lifecycle.nmi(cpu)
    assert owner.guest.calls == ["start", "SError to 0"]
