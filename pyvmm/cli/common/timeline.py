"""--trace-out FILE: the run as a timeline, in the JSON format of Chrome's and Perfetto's viewers.

Each PE has a track for each world: what the host does between its calls, each RMI command in the
RMM, each run of the realm between two exits; RSI, PSCI and device accesses are marks in them.  The
memory of each physical address space is a counter.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from pyvmm.arch.errors import UserError
from pyvmm.arch.events import (
    Event,
    GptChange,
    HesCall,
    Listener,
    MmioAccess,
    PsciCall,
    RecExit,
    RmiCall,
    RsiCall,
    WorldSwitch,
)
from pyvmm.arch.pas import Pas
from pyvmm.arch.user_file import without_waiting
from pyvmm.cli.common.say import say

HOST, MONITOR, RMM, REALM = range(4)
WORLDS: Final = ("normal world: host", "EL3: Monitor", "realm world: RMM", "realm: guest")
_NUM_WORLDS: Final = len(WORLDS)
_PACE: Final = 1000.0  # µs between two values of a counter


class _Call:
    """What a thread's PE is doing: the command that began last."""

    def __init__(self, pe: int, start: float) -> None:
        self.pe = pe
        self.start = start  # µs, of the last switch between worlds
        self.command: RmiCall | None = None
        self.exit: RecExit | None = None


class _Thread(threading.local):
    """What a thread does; it ends with the thread, so that no later one inherits it."""

    call: _Call | None = None


class Timeline:
    """Writes the file; a context manager that closes it.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoch = clock()
        self._thread = _Thread()
        self._granules = Counter[str]()
        self._next_count = 0.0
        self._has_failed = False
        self._lock = threading.Lock()
        try:
            self._file: TextIO = open(path, "w", opener=without_waiting)  # noqa: SIM115  kept open
        except OSError as error:
            line = f"--trace-out {path}: {error.strerror}: choose another file"
            raise UserError(line) from None

    def __enter__(self) -> Listener:
        self._file.write("[\n")
        self._put({"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "pyvmm"}})
        return self._listen

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the guest has ended well without its timeline
            self._put_counts(self._now())
            self._file.write("{}]\n")
            self._file.close()

    def _now(self) -> float:
        return (self._clock() - self._epoch) * 1e6

    def _listen(self, event: Event) -> None:
        with self._lock:
            if self._has_failed:
                return
            try:
                self._take(event)
            except OSError as error:  # the guest continues without it
                self._has_failed = True
                say(f"--trace-out: {error.strerror}: the rest is lost", "error")

    def _take(self, event: Event) -> None:
        now, call = self._now(), self._thread.call
        pe = call.pe if call is not None else 0
        match event:
            case WorldSwitch(new=Pas.REALM):
                self._enter(event.pe, call, now)
            case WorldSwitch() if call is not None:
                self._leave(call, now)
            case RmiCall() if call is not None:
                call.command = event
            case RecExit() if call is not None:
                call.exit = event
            case RsiCall() | PsciCall():
                self._mark(pe, REALM, event.command, now, str(event))
            case HesCall():
                self._mark(pe, MONITOR, f"HES {event.service}", now, str(event))
            case MmioAccess():
                verb = "write" if event.is_write else "read"
                self._mark(pe, HOST, f"{verb} {event.device or 'nothing'}", now, str(event))
            case GptChange():
                self._count(event, now)
            case _:
                pass

    def _enter(self, pe: int, call: _Call | None, now: float) -> None:
        """A PE leaves the normal world."""
        if call is None:
            call = self._thread.call = _Call(pe, now)
            self._name_tracks(pe)
        elif now > call.start:
            self._slice(pe, HOST, "host", call.start, now, {})
        call.pe, call.start = pe, now
        call.command = call.exit = None

    def _leave(self, call: _Call, now: float) -> None:
        """A PE returns to the normal world."""
        command, leave = call.command, call.exit
        if command is not None:
            arguments = dict(zip(command.parameters, map(hex, command.arguments), strict=False))
            arguments["results"] = " ".join(map(hex, command.results))
            self._slice(call.pe, RMM, command.command, call.start, now, arguments)
        if leave is not None:
            syndrome = {"esr": hex(leave.esr), "far": hex(leave.far), "hpfar": hex(leave.hpfar)}
            self._slice(call.pe, REALM, f"exit: {leave.reason.name}", call.start, now, syndrome)
        call.start = now

    def _count(self, event: GptChange, now: float) -> None:
        size = event.size >> 12
        self._granules[event.old.name] -= size
        self._granules[event.new.name] += size
        if now >= self._next_count:
            self._put_counts(now)

    def _put_counts(self, now: float) -> None:
        self._next_count = now + _PACE
        if self._granules:
            change = {"REALM": self._granules["REALM"]}
            self._put({"ph": "C", "name": "granules", "pid": 0, "ts": now, "args": change})

    def _slice(
        self, pe: int, world: int, name: str, start: float, end: float, args: dict[str, str]
    ) -> None:
        tid = pe * _NUM_WORLDS + world
        self._put(
            {
                "ph": "X", "name": name, "pid": 0, "tid": tid,
                "ts": round(start, 3), "dur": round(end - start, 3), "args": args,
            }
        )  # fmt: skip

    def _mark(self, pe: int, world: int, name: str, now: float, text: str) -> None:
        tid = pe * _NUM_WORLDS + world
        self._put(
            {
                "ph": "i", "s": "t", "name": name, "pid": 0, "tid": tid,
                "ts": round(now, 3), "args": {"event": text},
            }
        )  # fmt: skip

    def _name_tracks(self, pe: int) -> None:
        for world, name in enumerate(WORLDS):
            tid = pe * _NUM_WORLDS + world
            args = {"name": f"PE {pe} {name}"}
            self._put({"ph": "M", "name": "thread_name", "pid": 0, "tid": tid, "args": args})

    def _put(self, event: dict[str, object]) -> None:
        self._file.write(json.dumps(event))
        self._file.write(",\n")
