"""A realm of the lab, as its host knows it: addresses and exits, nothing of its inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread, Timer
from typing import Final

from pyvmm.arch.esr import ESR_ABORT, ipa_of
from pyvmm.arch.gic import ICH_HCR_EN
from pyvmm.arch.pas import GRANULE_SIZE
from pyvmm.arch.rmi import (
    EXIT_OFFSET,
    REC_CREATE_NUM_GPRS,
    RealmParams,
    RecEnter,
    RecEnterFlags,
    RecExit,
    RecExitReason,
    RecParams,
    RmiFid,
)
from pyvmm.arch.rmi_revisions import VERSION_2_0
from pyvmm.arch.stage2 import PAGE_LEVEL, level_size
from pyvmm.lab import code
from pyvmm.lab.code import Request
from pyvmm.lab.host import Host, HostFailure, refusals

_WNR: Final = ESR_ABORT.WnR.mask
_GPRS: Final = 31
_TICK: Final = 0.001  # seconds between two looks at another PE
_PATIENCE: Final = 30.0  # seconds after which a realm is taken not to answer

#: An image: the content of pages by IPA, in the order in which they are measured.
Image = Mapping[int, bytes]

#: The realm that its owner wants: the service, and the device tree of its machine.
IMAGE: Final[Image] = {code.CODE: code.service(), code.DEVICE_TREE: b"ram=64K console=uart0\0"}

#: A realm that works for the attacker: the service without a secret of its own.
HELPER: Final[Image] = {code.CODE: code.service(code.HAVE_NONE)}
#: The service with a back door: it stores its secret to shared memory.
BACK_DOOR: Final[Image] = {**IMAGE, code.CODE: code.service(code.GIVE_AWAY)}


class Stopped(HostFailure):
    """The realm stopped for something else than a request: ``exit`` says what."""

    def __init__(self, leave: RecExit) -> None:
        self.exit = leave
        reason = RecExitReason(leave.exit_reason).name
        super().__init__(f"exit {reason}, ESR {leave.esr:#x}, IPA {ipa_of(leave.hpfar):#x}")


@dataclass
class Realm:
    """A realm and what its host gave it."""

    host: Host
    rd: int
    rec: int = 0
    run: int = 0  # the run granule
    shared: int = 0  # the PA of the page at code.SHARED
    pages: dict[int, int] = field(default_factory=dict)  # PA by IPA
    tables: list[int] = field(default_factory=list)

    # --- construction ---------------------------------------------------------------------

    @classmethod
    def create(cls, host: Host, **params: int) -> Realm:
        """Create a realm with tables for its first 2 MiB and for shared memory, not active.

        ``params`` are members of RmiRealmParams.
        """
        start, rd = host.delegated(), host.delegated()
        wanted = RealmParams.of(s2sz=33, num_bps=1, num_wps=1, vmid=next(host.vmids))
        wanted.rtt_base, wanted.rtt_level_start, wanted.rtt_num_start = start, 1, 1
        for name, value in params.items():
            setattr(wanted, name, value)
        with refusals():
            host.dialect.create_realm(rd, wanted)
        realm = cls(host, rd, tables=[start])
        for ipa in (code.CODE, code.SHARED):
            for level in (2, 3):
                realm.add_table(ipa, level)
        return realm

    def add_table(self, ipa: int, level: int) -> int:
        """Create a table; return its PA."""
        pa = self.host.delegated()
        self.host.rmi(RmiFid.RMI_RTT_CREATE, self.rd, pa, ipa & -level_size(level - 1), level)
        self.tables.append(pa)
        return pa

    def load(self, image: Image) -> None:
        """Declare RAM, and add the measured pages of an image."""
        end = code.DEVICE_TREE + GRANULE_SIZE
        self.host.rmi(RmiFid.RMI_RTT_INIT_RIPAS, self.rd, code.CODE, end)
        for ipa, content in image.items():
            self.add_page(ipa, content)

    def add_page(self, ipa: int, content: bytes) -> int:
        """Add a measured page; return its PA."""
        source, data = self.host.granule(content), self.host.delegated()
        self.add_source(ipa, data, source)
        return data

    def add_source(self, ipa: int, data: int, source: int) -> None:
        """Make a delegated granule a measured page with the content of one of the host's."""
        with refusals():
            self.host.dialect.fill(self.rd, ipa, data, source, 1)
        self.pages[ipa] = data

    def remove_page(self, ipa: int) -> None:
        """Take a page away; its granule is DELEGATED then."""
        with refusals():
            self.host.dialect.take(0, self.rd, ipa, 1)

    def add_empty_page(self, ipa: int, data: int | None = None) -> int:
        """Give the realm a page of zeros: a new granule, or the one at ``data``; return its PA."""
        pa = self.host.delegated() if data is None else data
        with refusals():
            self.host.dialect.back(0, self.rd, ipa, pa, 1)
        self.pages[ipa] = pa
        return pa

    def share(self) -> None:
        """Map a page of the host at code.SHARED."""
        self.shared = self.host.granule(bytes(GRANULE_SIZE))
        self.map_shared(code.SHARED, self.shared)

    def map_shared(self, ipa: int, pa: int) -> None:
        """Map a page of the host, at an IPA that should be unprotected."""
        with refusals():
            self.host.dialect.share(0, self.rd, ipa, pa, PAGE_LEVEL)

    def add_rec(self, *gprs: int) -> None:
        """Create the realm's REC, which starts with X0.. = ``gprs``."""
        self.rec, self.run = self.host.delegated(), self.host.granule(bytes(GRANULE_SIZE))
        params = RecParams.of(flags=1, pc=code.CODE)
        params.gprs = (*gprs, *[0] * (REC_CREATE_NUM_GPRS - len(gprs)))
        with refusals():
            self.host.dialect.create_rec(self.rd, self.rec, params)

    def remove_rec(self) -> None:
        """Destroy the realm's REC, and take back the granules that it was lent."""
        with refusals():
            self.host.dialect.destroy_rec(self.rec)

    def activate(self) -> None:
        """End the construction."""
        self.host.rmi(RmiFid.RMI_REALM_ACTIVATE, self.rd)

    @classmethod
    def build(cls, host: Host, image: Image = IMAGE, *, secret_page: bool = True) -> Realm:
        """Build a realm from an image, up to its activation."""
        realm = cls.create(host)
        realm.load(image)
        for ipa in (code.SECRET, code.BUFFER) if secret_page else (code.BUFFER,):
            realm.add_empty_page(ipa)
        realm.share()
        realm.add_rec()
        realm.activate()
        return realm

    @classmethod
    def victim(cls, host: Host, image: Image = IMAGE) -> Realm:
        """Build the realm of another owner, and run it until it has a secret and waits."""
        realm = cls.build(host, image)
        realm.start()
        host.announce(realm.rd, realm.rec)
        return realm

    # --- running --------------------------------------------------------------------------

    @property
    def secret(self) -> int:
        """The PA of the realm's secret: the host gave it the page."""
        return self.pages[code.SECRET]

    def enter(self, pe: int = 0, **members: int | tuple[int, ...]) -> RecExit:
        """Enter the REC with members of RmiRecEnter; return the exit.

        Raises: Refused.
        """
        enter = RecEnter.of(**members)
        if self.host.revision == VERSION_2_0:
            self._set_interface(pe, enter)
        self.host.memory.write(self.run, enter.data)
        self.host.rmi(RmiFid.RMI_REC_ENTER, self.rec, self.run, pe=pe)
        return RecExit(self.host.memory.read(self.run + EXIT_OFFSET, RecExit.size))

    def _set_interface(self, pe: int, enter: RecEnter) -> None:
        """Set the PE's list registers: RMI 2.0 does not take them from memory."""
        interface = self.host.hardware.interface(pe)
        for number, lr in enumerate(enter.gicv3_lrs):
            interface.ich_lr[number] = lr
        interface.ich_hcr = enter.gicv3_hcr | ICH_HCR_EN

    def start(self, pe: int = 0) -> None:
        """Run the realm until it asks for a request."""
        self._run_to_device(pe, is_write=False)

    def ask(self, request: Request, *, pe: int = 0, data: int = 0) -> int:
        """Give the realm a request and return its answer; ``data`` is what READ_32 loads.

        Raises: Stopped.
        """
        leave = self._run_to_device(pe, answer=request, is_write=request is not Request.READ_32)
        if request is Request.READ_32:
            leave = self._run_to_device(pe, answer=data, is_write=True)
        self._run_to_device(pe, answer=0, is_write=False)
        return leave.gprs[0]

    def count_accesses(self, request: Request) -> int:
        """Give the realm a request that it answers with several stores; return their number."""
        count, leave = 0, self.resume(0, request)
        while leave.exit_reason == RecExitReason.IRQ or leave.esr & _WNR:
            is_interrupt = leave.exit_reason == RecExitReason.IRQ
            count += not is_interrupt
            leave = self.resume(0, None if is_interrupt else 0)
        return count

    def _run_to_device(self, pe: int, *, is_write: bool, answer: int | None = None) -> RecExit:
        deadline = time.monotonic() + _PATIENCE
        alarm = Timer(_PATIENCE, self.host.hardware.kick, (pe,))
        alarm.start()
        try:
            leave = self.resume(pe, answer)
            while leave.exit_reason == RecExitReason.IRQ and time.monotonic() < deadline:
                leave = self.enter(pe)
        finally:
            alarm.cancel()
        is_device = leave.exit_reason == RecExitReason.SYNC and ipa_of(leave.hpfar) == code.DEVICE
        if not is_device or bool(leave.esr & _WNR) != is_write:
            raise Stopped(leave)
        return leave

    def resume(self, pe: int = 0, answer: int | None = None) -> RecExit:
        """Enter once; with ``answer``, complete the device access with it."""
        if answer is None:
            return self.enter(pe)
        gprs = (answer, *[0] * (_GPRS - 1))
        return self.enter(pe, flags=RecEnterFlags.EMUL_MMIO, gprs=gprs)

    @contextmanager
    def running(self, request: Request, pe: int = 1) -> Iterator[Runner]:
        """Run SPIN or PEEK on another PE meanwhile."""
        self._clear_signs()
        runner = Runner(self, request, pe)
        runner.start()
        while runner.is_alive() and not self._has_begun():
            time.sleep(_TICK)
        try:
            yield runner
        finally:
            self.host.memory.write(self.shared + code.STOP_OFFSET, b"\1" + bytes(7))
            runner.join()

    def token(self, challenge: bytes) -> bytes:
        """Have the realm ask for a token."""
        self.host.memory.write(self.shared, challenge)
        size = self.ask(Request.TOKEN)
        return self.host.memory.read(self.shared, size)

    def publish(self) -> bytes:
        """Have the realm, a helper of the attacker, show its page at code.SECRET; return it.

        It shows nothing if it cannot read the page.
        """
        with suppress(Stopped):
            self.start()
        with self.running(Request.PEEK):
            pass
        return self.host.memory.read(self.shared, 16)

    def finish(self, **members: int | tuple[int, ...]) -> int:
        """End an interrupted request: enter once with members of RmiRecEnter; return the answer."""
        self.host.memory.write(self.shared + code.STOP_OFFSET, b"\1" + bytes(7))
        leave = self.enter(0, **members)
        while leave.exit_reason == RecExitReason.IRQ:
            leave = self.enter()
        if leave.exit_reason != RecExitReason.SYNC or not leave.esr & _WNR:
            raise Stopped(leave)
        self._run_to_device(0, answer=0, is_write=False)
        return leave.gprs[0]

    def interrupted(self, request: Request, pe: int = 1) -> RecExit:
        """Interrupt a request on another PE, which remains to be finished; return the exit."""
        self._clear_signs()
        with ThreadPoolExecutor(1) as threads:
            leaving = threads.submit(self.resume, pe, request)
            while not leaving.done() and not self._has_begun():
                time.sleep(_TICK)
            self.host.hardware.kick(pe)
        return leaving.result()

    def _clear_signs(self) -> None:
        self.host.memory.write(self.shared + code.STOP_OFFSET, bytes(8))
        self.host.memory.write(self.shared + code.BEAT_OFFSET, b"\1" + bytes(7))

    def _has_begun(self) -> bool:
        """Check whether SPIN or PEEK has gone round since its start."""
        return not any(self.host.memory.read(self.shared + code.BEAT_OFFSET, 8))


class Runner(Thread):
    """Another PE of the host, which runs a realm."""

    def __init__(self, realm: Realm, request: Request, pe: int) -> None:
        super().__init__(name=f"PE {pe}")
        self._realm = realm
        self._request = request
        self._pe = pe
        self.answer: int | None = None
        self.stopped: HostFailure | None = None

    def run(self) -> None:
        """Ask; keep the answer, or why there is none."""
        try:
            self.answer = self._realm.ask(self._request, pe=self._pe)
        except HostFailure as failure:
            self.stopped = failure
