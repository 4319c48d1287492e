"""The interface for devices to write their device tree node, with window and interrupts.

Source: Devicetree Specification 0.4; the binding of each node's `compatible` in Linux.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Trigger(IntEnum):
    """How an interrupt is signalled, encoded as in the GIC's binding."""

    EDGE_RISING = 1
    LEVEL_HIGH = 4
    LEVEL_LOW = 8


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a device: the IPA and size (bytes) of its window, and its shared interrupts."""

    base: int
    size: int
    spis: tuple[int, ...] = ()  # numbered from the first shared one


class TreeWriter(Protocol):
    """A device tree under construction, with an open node."""

    def node(self, name: str, /) -> AbstractContextManager[None]:
        """Open a node inside the open one, until the context ends."""

    def text(self, name: str, /, *values: str) -> None:
        """Add a property of strings."""

    def cells(self, name: str, /, *values: int) -> None:
        """Add a property of 32-bit numbers."""

    def wide_cells(self, name: str, /, *values: int) -> None:
        """Add a property of 64-bit numbers, two cells each."""

    def flag(self, name: str, /) -> None:
        """Add a property without a value."""

    def interrupts(self, spis: tuple[int, ...], trigger: Trigger, /) -> None:
        """Add the `interrupts` property of a device with shared interrupts."""

    def interrupt_map(
        self, rows: Sequence[tuple[tuple[int, ...], int]], trigger: Trigger, /
    ) -> None:
        """Add the `interrupt-map` property: for each unit and interrupt, a shared interrupt."""

    def msi_controller(self) -> int | None:
        """Return the phandle of the target of messages; None if there is none."""

    def new_phandle(self) -> int:
        """Return a phandle that no node has yet."""
