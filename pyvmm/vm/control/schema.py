"""The published schemas: an instance's API, an OpenRPC document derived from `api`; and its events.

`python -m pyvmm.vm.control.schema` regenerates them and the reference part of docs/api.md.
"""

import json
import re
from pathlib import Path
from typing import Final

import msgspec

from pyvmm.arch.events import KINDS
from pyvmm.vm.control import openapi
from pyvmm.vm.control.api import API_VERSION, METHODS, NOTIFICATIONS, Method, TracedEvent

Json = dict[str, object]

SCHEMA: Final = Path(__file__).parent / "api-schema.json"
EVENT_SCHEMA: Final = Path(__file__).parent / "event-schema.json"
MANUAL: Final = Path(__file__).parents[3] / "docs" / "api.md"
BEGIN, END = "<!-- generated: begin -->\n", "<!-- generated: end -->\n"


def document() -> Json:
    """Return the schema."""
    methods = [*METHODS.values(), *NOTIFICATIONS.values()]
    types = [each for method in methods for each in (method.params, method.result)]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    params = {name: _fields(each) for name, each in components.items() if name.endswith("_params")}
    results = dict(zip((method.name for method in methods), schemas[1::2], strict=True))
    return {
        "openrpc": "1.2.6",
        "info": {"title": "pyvmm instance", "version": f"{API_VERSION}.0.0"},
        "methods": [_entry(each, params, results) for each in METHODS.values()],
        "x-notifications": [_entry(each, params, results) for each in NOTIFICATIONS.values()],
        "components": {
            "schemas": {name: each for name, each in components.items() if name not in params}
        },
    }


def _fields(schema: Json) -> list[Json]:
    properties, required = schema["properties"], schema["required"]
    assert isinstance(properties, dict)  # noqa: S101  msgspec makes it so
    assert isinstance(required, list)  # noqa: S101
    return [
        {"name": name, "required": name in required, "schema": field}
        for name, field in properties.items()
    ]


def _entry(method: Method, params: dict[str, list[Json]], results: dict[str, Json]) -> Json:
    entry: Json = {
        "name": method.name,
        "summary": method.doc,
        "paramStructure": "by-name",
        "params": params[f"{method.name}_params"],
    }
    if method.name in METHODS:
        entry["result"] = {"name": "result", "schema": results[method.name]}
    return entry


def event_document() -> Json:
    """Return the JSON schema of a traced event; its definitions are the events by kind."""
    kinds = [event for kind in KINDS.values() for event in kind.events]
    types = [TracedEvent, *kinds]
    _, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of pyvmm",
        **definitions.pop("TracedEvent"),
        "oneOf": [
            {
                "properties": {
                    "kind": {"const": kind.__name__},
                    "event": {"$ref": f"#/$defs/{kind.__name__}"},
                }
            }
            for kind in kinds
        ],
        "$defs": definitions,
    }


def text_of(schema: Json) -> str:
    """Return the content of a schema's file."""
    return json.dumps(schema, indent=1) + "\n"


def manual_text(old: str) -> str:
    """Return docs/api.md with its reference regenerated."""
    lines = ["| method | parameters | result | |", "|---|---|---|---|"]
    lines += [_row(each) for each in METHODS.values()]
    lines += ["", "| notification | parameters | | |", "|---|---|---|---|"]
    lines += [_row(each) for each in NOTIFICATIONS.values()]
    before, rest = old.split(BEGIN)
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]


def _row(method: Method) -> str:
    shown = ", ".join(
        f"`{each.name}`" + ("" if each.default is each.empty else f" = {json.dumps(each.default)}")
        for each in method.signature.parameters.values()
    )
    result = "" if method.result is type(None) else f"`{_name(method.result)}`"
    return f"| `{method.name}` | {shown} | {result} | {method.doc} |"


def _name(kind: type[object]) -> str:
    return re.sub(r"[\w.]+\.", "", getattr(kind, "__name__", str(kind)))


def main() -> None:
    """Write the schemas and docs/api.md."""
    SCHEMA.write_text(text_of(document()))
    EVENT_SCHEMA.write_text(text_of(event_document()))
    openapi.OPENAPI.write_text(text_of(openapi.document()))
    MANUAL.write_text(manual_text(MANUAL.read_text()))


if __name__ == "__main__":
    main()
