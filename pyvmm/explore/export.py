"""A run as one file of HTML: the page, and the messages that a server would have sent to it.

The file needs no server and no network; its policy lets a browser run the page's script only.
"""

import base64
import gzip
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from pyvmm.arch.errors import UserError
from pyvmm.arch.user_file import write_file
from pyvmm.explore.messages import Hello, Instances, NewMap, NewStatus, Recorded, events_message
from pyvmm.explore.record import GPIS, STATES
from pyvmm.explore.watcher import Watcher
from pyvmm.vm.exit_code import Failure

#: The questions whose answers are kept.
_KEPT: Final = ("observe_rtt", "observe_realms", "observe_recs", "observe_pes")
_MAX_EVENTS: Final = 20_000  # of a message
_MIME: Final = "application/octet-stream"


Pictures = dict[str, msgspec.Raw]


def take_pictures(watcher: Watcher) -> Pictures:
    """Return the answers of an instance to the questions that are kept; none once it has ended."""
    answers = {}
    for method in _KEPT:
        with suppress(UserError, Failure):
            answers[method] = msgspec.Raw(msgspec.json.encode(watcher.ask(method, {})))
    return answers


def export(path: Path, watcher: Watcher, pictures: Pictures) -> None:
    """Write the record of an instance.

    Raises:
        UserError: there is nothing to write, or the file cannot be written.
    """
    if watcher.problem:
        raise UserError(watcher.problem)
    data = b"\n".join(msgspec.json.encode(each) for each in _messages(watcher, pictures))
    try:
        write_file(path, _page(data).encode())
    except OSError as error:
        raise UserError(f"--export {path}: {error.strerror}: choose another file") from None


def _messages(watcher: Watcher, pictures: Pictures) -> Iterator[msgspec.Struct]:
    record = watcher.record
    first, end = record.bounds
    if watcher.status is not None:
        yield Instances([watcher.status])
    yield Hello(watcher.name, GPIS, STATES, first, end)
    yield NewStatus(watcher.status, "")
    found = record.map()
    if found is not None:
        yield NewMap(found, first, record.num_lost, 0)
    while chunks := record.chunks(first, _MAX_EVENTS):
        yield events_message(chunks)
        first = chunks[-1].end
    yield Recorded(pictures)


def _page(data: bytes) -> str:
    script, style = (_file(name) for name in ("explorer.js", "explorer.css"))
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}';"
        f" style-src 'sha256-{_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    text = base64.b64encode(gzip.compress(data, 6)).decode()
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n<title>pyvmm explore</title>\n'
        f'<style>{style}</style>\n<body>\n<script type="{_MIME}" id="record">{text}</script>\n'
        f"<script>{script}</script>\n"
    )


def _file(name: str) -> str:
    return (files("pyvmm.explore") / "page" / name).read_text()


def _digest(text: str) -> str:
    return base64.b64encode(sha256(text.encode()).digest()).decode()
