"""One browser that looks at one instance.

The server sends JSON: ``instances``, ``hello`` with the map, ``events`` in batches, thirty times a
second at most, ``map`` when events were lost, ``status``, and an ``answer`` to each question.  A
browser that reads too slowly misses events, is told how many, and gets a new map.
"""

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from pyvmm.arch.errors import UserError
from pyvmm.arch.system import shortages
from pyvmm.arch.text import defect, printable
from pyvmm.explore.hub import Hub
from pyvmm.explore.messages import (
    Answer,
    Choice,
    Hello,
    Instances,
    NewMap,
    NewStatus,
    Question,
    events_message,
)
from pyvmm.explore.record import GPIS, STATES
from pyvmm.explore.watcher import Watcher
from pyvmm.vm.control.api import Status
from pyvmm.vm.exit_code import Failure

_PACE: Final = 1 / 30  # seconds between two messages with events
_LIST_PACE: Final = 0.5  # seconds between two looks at the list of instances
_MAX_SENT: Final = 20_000  # events in one message
_MAX_BEHIND: Final = 150_000  # events that a browser may be behind before it misses some
_MAX_QUESTIONS: Final = 8  # that wait for their answers; then the browser has to wait
_BAD_MESSAGE: Final = 1003
_MAX_REASON: Final = 60  # characters: a reason for closing has at most 123 bytes


_DECODER: Final[msgspec.json.Decoder[Choice | Question]] = msgspec.json.Decoder(Choice | Question)


class Session:
    """A connection to a browser."""

    def __init__(self, browser: WebSocket, hub: Hub) -> None:
        self._browser = browser
        self._hub = hub
        self._watcher: Watcher | None = None
        self._turn = asyncio.Lock()  # of those who send
        self._slots = asyncio.Semaphore(_MAX_QUESTIONS)
        self._tasks = set[asyncio.Task[None]]()
        self._view = asyncio.Event()  # set when the browser leaves the instance that it looks at

    async def run(self) -> None:
        """Serve the browser until it leaves, or sends what is not a message."""
        await self._browser.accept()
        self._spawn(self._list())
        try:
            while True:
                message = await self._browser.receive()
                if message["type"] != "websocket.receive":
                    break
                await self._take(message.get("text") or "")
        except (msgspec.DecodeError, RecursionError) as error:
            await self._browser.close(_BAD_MESSAGE, printable(str(error))[:_MAX_REASON])
        finally:
            await self._end()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, message: msgspec.Struct) -> None:
        """Send a message; waits while the browser does not read."""
        async with self._turn:
            with suppress(RuntimeError, WebSocketDisconnect):  # it has left: `run` notices, too
                await self._browser.send_text(msgspec.json.encode(message).decode())

    async def _list(self) -> None:
        """Send the list of instances whenever it changes."""
        before: list[Status] | None = None
        while True:
            statuses = await asyncio.to_thread(self._hub.statuses)
            if statuses != before:
                await self._send(Instances(statuses))
                before = statuses
            await asyncio.sleep(_LIST_PACE)

    # --- what the browser asks for ----------------------------------------------------------

    async def _take(self, text: str) -> None:
        message = _DECODER.decode(text)
        if isinstance(message, Choice):
            await self._choose(message.name)
        else:
            await self._slots.acquire()
            self._spawn(self._answer(message))

    async def _choose(self, name: str) -> None:
        self._view.set()
        self._view = left = asyncio.Event()
        try:
            self._watcher = await asyncio.to_thread(self._hub.watch, name)
        except UserError as error:
            await self._send(NewStatus(None, str(error)))
            return
        self._spawn(self._show(self._watcher, left))

    async def _answer(self, question: Question) -> None:
        try:
            result = await asyncio.to_thread(self._ask, question)
            answer = Answer(question.id, msgspec.Raw(msgspec.json.encode(result)))
        except (UserError, Failure) as error:
            answer = Answer(question.id, error=str(error))
        except Exception:  # noqa: BLE001  our bug must not leave the page waiting
            sys.stderr.write(f"{defect()}\n")
            answer = Answer(question.id, error="a defect of pyvmm: see its terminal")
        finally:
            self._slots.release()
        await self._send(answer)

    def _ask(self, question: Question) -> object:
        if self._watcher is None:
            raise UserError("choose an instance first")
        with shortages():
            return self._watcher.ask(question.method, question.params)

    # --- the view of an instance ------------------------------------------------------------

    async def _show(self, watcher: Watcher, left: asyncio.Event) -> None:
        """Send an instance's events from the first one kept, and then each new one."""
        record = watcher.record
        cursor, history = record.bounds
        await self._send(Hello(watcher.name, GPIS, STATES, cursor, history))
        shown, num_maps, skipped = None, 0, 0
        while not left.is_set():
            if shown != (watcher.status, watcher.problem):
                shown = watcher.status, watcher.problem
                await self._send(NewStatus(*shown))
            behind = record.bounds[1] - cursor
            if cursor >= history and behind > _MAX_BEHIND:
                cursor, skipped, num_maps = cursor + behind, skipped + behind, -1
            if num_maps != record.num_maps and (found := record.map()) is not None:
                num_maps = record.num_maps
                await self._send(NewMap(found, cursor, record.num_lost, skipped))
            if chunks := record.chunks(cursor, _MAX_SENT):
                cursor = chunks[-1].end
                await self._send(events_message(chunks))
            if behind < _MAX_SENT:
                await asyncio.sleep(_PACE)
