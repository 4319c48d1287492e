"""Lists of buffers that are filled or stored one after the other."""


def after(buffers: list[memoryview], size: int) -> list[memoryview]:
    """Return the rest of ``buffers`` after ``size`` bytes."""
    for index, buffer in enumerate(buffers):
        if size < len(buffer):
            return [buffer[size:], *buffers[index + 1 :]]
        size -= len(buffer)
    return []


def fill(buffers: list[memoryview], data: bytes | bytearray | memoryview) -> int:
    """Copy ``data`` into the buffers, one after the other; return the number of bytes copied."""
    done = 0
    for buffer in buffers:
        part = data[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
        if done == len(data):
            break
    return done


def split(buffers: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """Split a list of buffers after ``size`` bytes."""
    for index, buffer in enumerate(buffers):
        if size < len(buffer):
            if not size:
                return buffers[:index], buffers[index:]
            return [*buffers[:index], buffer[:size]], [buffer[size:], *buffers[index + 1 :]]
        size -= len(buffer)
    return buffers, []
