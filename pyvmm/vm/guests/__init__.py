"""The built-in guest and the guest agent, with their sources."""

from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
#: The guest agent, a static arm64 program.
AGENT: Final = _HERE / "agent.elf"


def hello() -> bytes:
    """Return the built-in guest: a flat binary that prints what RSI reports and powers off."""
    return (_HERE / "hello.bin").read_bytes()


def agent() -> bytes:
    """Return the guest agent, which is also the init of a root file system for one program."""
    return AGENT.read_bytes()
