"""The settings of an instance: its status, and the options that it was created with."""

import json
from collections.abc import Mapping

from msgspec import to_builtins

from pyvmm.arch.text import printable
from pyvmm.cli.common.instances import directory
from pyvmm.cli.common.kept import KeptOptions
from pyvmm.cli.common.say import print_json_text, print_lines
from pyvmm.vm.control.api import Status
from pyvmm.vm.options import OPTIONS


def show_settings(name: str, *, wants_json: bool) -> None:
    """Print the settings of an instance.

    Raises:
        UserError: it does not exist, or its options are damaged.
    """
    place = directory()
    status, data = place.find(name), place.options(name)
    kept = None if data is None else KeptOptions.decode(data, name)
    given = {} if kept is None else kept.options()
    settings = {
        OPTIONS[field].flag.removeprefix("--"): value
        for field, value in given.items()
        if field in OPTIONS
    }
    if wants_json:
        where = None if kept is None else printable(str(kept.place))
        options = {what: _plain(value) for what, value in settings.items()}
        shown = {"status": to_builtins(status), "directory": where, "options": options}
        print_json_text(json.dumps(shown, indent=1))
    else:
        _print(status, settings)


def _print(status: Status, settings: Mapping[str, object]) -> None:
    facts = to_builtins(status)
    facts["ports"] = " ".join(f"{each.host}->{each.guest_port}" for each in status.ports)
    lines = {what.replace("_", " "): value for what, value in facts.items()}
    lines |= {f"--{what}": value for what, value in settings.items()}
    for what, value in lines.items():
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        if value is not None and text:
            print_lines(f"{what:<16} {text}")


def _plain(value: object) -> bool | str | list[str]:
    """Return a value for JSON, which has no bytes that are not UTF-8."""
    if isinstance(value, tuple):
        return [printable(str(each)) for each in value]
    return value if isinstance(value, bool) else printable(str(value))
