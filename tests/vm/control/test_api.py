"""The declaration of the API, and the schema and manual derived from it."""

import json

from pyvmm.vm.control import openapi
from pyvmm.vm.control.api import METHODS, NOTIFICATIONS, Api
from pyvmm.vm.control.schema import (
    EVENT_SCHEMA,
    MANUAL,
    SCHEMA,
    document,
    event_document,
    manual_text,
    text_of,
)
from pyvmm.vm.control.server import Session


def test_schema_is_fresh() -> None:
    """`make gen` writes the schema and the reference in the manual."""
    assert SCHEMA.read_text() == text_of(document())
    assert openapi.OPENAPI.read_text() == text_of(openapi.document())
    assert EVENT_SCHEMA.read_text() == text_of(event_document())
    assert MANUAL.read_text() == manual_text(MANUAL.read_text())


def test_server_implements_what_is_declared() -> None:
    """The server has all declared methods; mypy checks their types."""
    implemented: type[Api] = Session
    for name in METHODS:
        assert callable(getattr(implemented, name))


def test_schema_has_every_method_with_its_types() -> None:
    """Each reference leads to a schema; each method has a summary."""
    schema = document()
    text = json.dumps(schema)
    methods, notifications = schema["methods"], schema["x-notifications"]
    assert isinstance(methods, list)
    assert isinstance(notifications, list)
    assert [each["name"] for each in methods] == list(METHODS)
    assert [each["name"] for each in notifications] == list(NOTIFICATIONS)
    assert all(each["summary"] for each in (*methods, *notifications))
    components = schema["components"]
    assert isinstance(components, dict)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in components["schemas"]
    write = next(each for each in methods if each["name"] == "console_write")
    assert write["params"] == [
        {
            "name": "data",
            "required": True,
            "schema": {"type": "string", "contentEncoding": "base64"},
        }
    ]
