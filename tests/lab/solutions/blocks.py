"""A solution of exercise blocks."""


def ends(word: int) -> bool:
    """Return whether a block ends here."""
    return (
        word >> 26 & 0x1F == 0b00101
        or (word >> 24 == 0x54 and not word >> 4 & 1)
        or word >> 25 & 0x3F in {0b011010, 0b011011}
        or word >> 25 == 0b1101011
        or word >> 24 == 0xD4
    )


def blocks(words: list[int]) -> list[tuple[int, int]]:
    """Cut."""
    found, first = [], 0
    for n, word in enumerate(words, 1):
        if ends(word) or n == len(words):
            found.append((first, n - first))
            first = n
    return found
