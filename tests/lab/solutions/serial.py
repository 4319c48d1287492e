"""A solution of exercise serial."""

DATA, FLAGS = 0x00, 0x18


class Serial:
    """A port with two registers."""

    def __init__(self, typed: bytes) -> None:
        self.typed = typed
        self.output = bytearray()

    def read(self, offset: int, _size: int) -> int:
        """Load."""
        if offset == FLAGS:
            return 0x80 | (not self.typed) << 4
        if offset != DATA or not self.typed:
            return 0
        value, self.typed = self.typed[0], self.typed[1:]
        return value

    def write(self, offset: int, _size: int, value: int) -> None:
        """Store."""
        if offset == DATA:
            self.output.append(value & 0xFF)
