"""How HTTP reaches the methods of the API: each has a path, its name.

`GET` reads and has its parameters in the query; `POST` changes something and has them in its body.
"""

from typing import Final, Literal

from pyvmm.vm.control.api import METHODS

Verb = Literal["GET", "POST"]

#: Where the description of all paths is.
OPENAPI_PATH: Final = "openapi.json"
#: Methods that change nothing.
READS: Final = frozenset(
    {"version", "status", "statistics", "debug"}
    | {name for name in METHODS if name.startswith("observe_")}
)
#: Methods whose answer does not end: server-sent events, the notifications that they ask for.
FEEDS: Final = {
    "watch": ("state_changed",),
    "console_attach": ("console_output", "console_closed"),
    "observe_events": ("events_recorded",),
}
#: Methods of JSON-RPC only: they need an open file, or several requests on one connection.
_CONNECTED: Final = frozenset({"snapshot"} | {name for name in METHODS if name.startswith("exec_")})
#: Path → its verb.
ROUTES: Final[dict[str, Verb]] = {
    name: "GET" if name in READS or name in FEEDS else "POST"
    for name in METHODS
    if name not in _CONNECTED
}
