"""A table of text."""

from collections.abc import Collection, Iterator, Sequence


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> Iterator[str]:
    """Yield the lines of a table; columns whose headings are in ``right`` are right-aligned.

    >>> list(table(("NAME", "N"), [("a", "10")], right={"N"}))
    ['NAME   N', 'a     10']
    """
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(headings, line, widths, strict=True)
        yield "  ".join(
            text.rjust(width) if heading in right else text.ljust(width)
            for heading, text, width in cells
        ).rstrip()
