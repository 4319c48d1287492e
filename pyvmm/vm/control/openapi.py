"""The published description of the API as HTTP, an OpenAPI document derived from `api`."""

from pathlib import Path
from typing import Final

import msgspec

from pyvmm.vm.control.api import API_VERSION, METHODS, NOTIFICATIONS, Method
from pyvmm.vm.control.routes import FEEDS, OPENAPI_PATH, ROUTES
from pyvmm.vm.control.rpc import RpcError

Json = dict[str, object]

OPENAPI: Final = Path(__file__).parent / OPENAPI_PATH
_PLACE: Final = "#/components/schemas/{name}"


def document() -> Json:
    """Return the description."""
    methods = [METHODS[name] for name in ROUTES]
    told = [NOTIFICATIONS[name] for names in FEEDS.values() for name in names]
    types = [each for method in methods for each in (method.params, method.result)]
    types += [RpcError, *(each.params for each in told)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_PLACE)
    results = dict(zip(ROUTES, schemas[1::2], strict=False))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyvmm instance",
            "version": f"{API_VERSION}.0.0",
            "description": "Served on the Unix socket of an instance.",
        },
        "servers": [{"url": "http://localhost"}],
        "paths": {
            f"/{each.name}": {
                ROUTES[each.name].lower(): _operation(each, components, results[each.name])
            }
            for each in methods
        },
        "components": {"schemas": components},
    }


def _operation(method: Method, components: dict[str, Json], result: Json) -> Json:
    params = f"{method.name}_params"
    operation: Json = {"operationId": method.name, "summary": method.doc}
    if ROUTES[method.name] == "GET":
        operation["parameters"] = _query(components[params])
    else:
        schema = {"$ref": _PLACE.format(name=params)}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    error = {"application/json": {"schema": {"$ref": _PLACE.format(name="RpcError")}}}
    operation["responses"] = {
        "200": _feed(method) if method.name in FEEDS else _result(result),
        "400": {"description": "The parameters are wrong.", "content": error},
        "409": {"description": "The instance refuses it in its state.", "content": error},
        "default": {"description": "Another error.", "content": error},
    }
    return operation


def _query(params: Json) -> list[Json]:
    properties, required = params["properties"], params["required"]
    assert isinstance(properties, dict)  # noqa: S101  msgspec makes it so
    assert isinstance(required, list)  # noqa: S101
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in properties.items()
    ]


def _result(schema: Json) -> Json:
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _feed(method: Method) -> Json:
    names = ", ".join(("result", *FEEDS[method.name]))
    return {
        "description": f"Server-sent events until the instance ends: {names}; data is JSON.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
