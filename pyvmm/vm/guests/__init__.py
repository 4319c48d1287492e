"""Guests of our own, beside their source."""

from pathlib import Path


def hello() -> bytes:
    """Return the built-in guest: a flat binary that prints what RSI says and powers off."""
    return Path(__file__).with_name("hello.bin").read_bytes()
