"""Watches one instance: fills its record, and asks it what a browser wants to know."""

import secrets
import time
from collections.abc import Mapping
from threading import Event, Lock, Thread
from typing import Final

import msgspec
from msgspec.structs import asdict, replace

from pyvmm.arch.bits import MASK64
from pyvmm.arch.errors import UserError
from pyvmm.arch.system import start_thread
from pyvmm.explore.record import Record
from pyvmm.explore.token import TokenPicture, token_picture
from pyvmm.token.claims import CHALLENGE_SIZE
from pyvmm.vm.control.api import METHODS, StampedEvent, State, Status
from pyvmm.vm.control.client import Client, connect
from pyvmm.vm.control.directory import Directory
from pyvmm.vm.exit_code import Failure

_PATIENCE: Final = 10.0  # seconds for an answer to a browser
_AGENT_PATIENCE: Final = 5.0  # seconds for the agent, while the guest's console is silent
_PACE: Final = 0.1  # seconds between two attempts to take a picture, and to notice `close`
_MAX_NUMBER: Final = 100  # characters
_ENDED: Final = frozenset({State.STOPPED, State.DEAD})
#: What a browser may ask an instance; all but the last three change nothing.
QUESTIONS: Final = frozenset(
    {
        "status", "statistics", "debug", "observe_gpt", "observe_granule", "observe_walk",
        "observe_stage1", "observe_rtt", "observe_realms", "observe_recs", "observe_pes",
        "observe_gic", "observe_timers", "observe_queues", "observe_tlbs", "observe_code",
        "pause", "resume", "debug_step",
    }
)  # fmt: skip


class Watcher:
    """One instance; any thread may call the methods."""

    def __init__(self, place: Directory, name: str) -> None:
        self.name = name
        self.record = Record()
        self.status: Status | None = None
        self.problem = ""  # why it cannot be watched, in one line
        self._place = place
        self._client: Client | None = None  # for questions
        self._turn = Lock()  # of those who ask
        self._is_stale = Event()
        self._is_closing = Event()
        self._is_stale.set()
        self._thread = Thread(target=self._run, name=f"watch {name}", daemon=True)

    def start(self) -> None:
        """Start watching.

        Raises:
            NoThreadError: the system refused a thread.
        """
        start_thread(self._thread)

    def close(self) -> None:
        """Stop watching; return when that has happened."""
        self._is_closing.set()
        self._thread.join()

    def wait_for_end(self, patience: float) -> None:
        """Wait until nothing more will happen, or for some seconds."""
        self._thread.join(patience)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return bool(self.problem) or (self.status is not None and self.status.state in _ENDED)

    # --- the thread of the watcher --------------------------------------------------------------

    def _run(self) -> None:
        try:
            with connect(self._place, self.name) as client:
                self._watch(client)
        except UserError as error:
            self.problem = str(error)
        except Failure as failure:
            self._note_end(str(failure))
        finally:
            with self._turn:
                if self._client is not None:
                    self._client.close()
                    self._client = None

    def _watch(self, client: Client) -> None:
        self.status = client.api.watch()
        client.api.observe_events()
        next_picture = 0.0
        while not self._is_closing.is_set():
            client.listen(self, _PACE)
            if self._is_stale.is_set() and time.monotonic() >= next_picture:
                self._take_picture()
                next_picture = time.monotonic() + _PACE

    def _take_picture(self) -> None:
        """Take the map, unless the machine does not exist yet."""
        self._is_stale.clear()
        try:
            with self._turn:
                picture = self._connected().api.observe_gpt()
            self.record.take(picture)
        except UserError:
            self._is_stale.set()

    def _note_end(self, line: str) -> None:
        if self.status is None:
            self.problem = line
        elif self.status.state not in _ENDED:
            self.status = replace(self.status, state=State.DEAD, reason=line)

    # --- what the instance tells; called on the same thread --------------------------------------

    def state_changed(self, status: Status) -> None:
        """Take its new state."""
        self.status = status

    def events_recorded(self, first: int, inside: list[int], events: list[StampedEvent]) -> None:
        """Take events."""
        if not self.record.add(first, inside, events):
            self._is_stale.set()

    # --- questions ------------------------------------------------------------------------------

    def ask(self, method: str, params: Mapping[str, object]) -> object:
        """Call a method of the API; texts such as "0x1000" stand for numbers.

        Raises:
            UserError: the question is invalid.
            Failure: the instance has ended.
        """
        if method == "token":
            return self._token(params.get("text"))
        if method not in QUESTIONS:
            raise UserError(f"{method!r} is not a question for an instance")
        try:
            values = msgspec.convert(
                {name: _number(value) for name, value in params.items()}, METHODS[method].params
            )
        except (msgspec.ValidationError, ValueError) as error:
            raise UserError(f"{method}: {error}") from None
        with self._turn:
            result: object = getattr(self._connected().api, method)(**asdict(values))
            return result

    def _token(self, text: object) -> TokenPicture:
        """Return a token that the user has given, or else a new one of the realm."""
        if isinstance(text, str):
            return token_picture(text.encode(errors="replace"), None, None)
        challenge = secrets.token_bytes(CHALLENGE_SIZE)
        with connect(self._place, self.name, _PATIENCE) as client:
            token = client.api.attest(challenge, patience=_AGENT_PATIENCE)
            return token_picture(token, challenge, client.api.status().rim)

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._place, self.name, _PATIENCE)
        return self._client


def _number(value: object) -> object:
    """Return the number that a text such as "0x1000" stands for; ValueError if it is too large."""
    if isinstance(value, str) and value.startswith("0x"):
        value = int(value[:_MAX_NUMBER], 16)
    if isinstance(value, int) and abs(value) > MASK64:
        raise ValueError("a number has at most 64 bits")
    return value
