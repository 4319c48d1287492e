"""What the fakes of memory have in common; they differ in what they refuse."""

from abc import ABC, abstractmethod


class ViewedMemory(ABC):
    """Memory that is read and written through its view."""

    @abstractmethod
    def view(self, pa: int, size: int) -> memoryview:
        """Check, and return a window."""

    def read(self, pa: int, size: int) -> bytes:
        """Return a copy."""
        return bytes(self.view(pa, size))

    def write(self, pa: int, data: bytes | bytearray | memoryview) -> None:
        """Store."""
        self.view(pa, len(data))[:] = data

    def zero(self, pa: int, size: int) -> None:
        """Store zeros."""
        self.write(pa, bytes(size))

    def shared_size(self) -> int:
        """Return a size that nobody asks for."""
        return 0

    def begin_transfer(self) -> int:
        """Do nothing: nobody takes pages away."""
        return 0

    def end_transfer(self, transfer: int) -> None:  # noqa: B027  nothing to do
        """Do nothing."""

    def read_u64(self, pa: int) -> int:
        """Read a word."""
        return int.from_bytes(self.read(pa, 8), "little")

    def write_u64(self, pa: int, value: int) -> None:
        """Store a word."""
        self.write(pa, value.to_bytes(8, "little"))
