"""pyvmm top on a terminal: a table of instances that fits any width, sorts, and quits with q."""

from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Static

from pyvmm.arch.text import printable
from pyvmm.cli.common.activity import COLUMNS, NAME, REASONS, TEXTS, Reading, row, sort
from pyvmm.cli.common.instances import GONE
from pyvmm.cli.common.units import plural

#: Columns that a narrow terminal omits, in this order; no number is ever cut.
_EXPENDABLE: Final = (
    REASONS, "KIND", "CPUS", "NET/s", "DISK/s", "EXITS/s", "NS", "REALM", "MIPS", "STATE",
)  # fmt: skip
_MIN_NAME: Final = 8
_MIN_REASONS: Final = 12  # "sysreg:12.3k"


def layout(rows: Sequence[Sequence[str]], width: int) -> list[dict[str, str]]:
    """Return a table that fits into ``width`` characters, headings first.

    Each row has a cell for each column, and reasons are separated by commas.  Returns: for each
    row, the cells of the columns that fit, all of one width.
    """
    table = [dict(zip(COLUMNS, each, strict=True)) for each in (COLUMNS, *rows)]
    widths = {column: max(len(each[column]) for each in table) for column in COLUMNS}
    wanted = {column: widths[column] for column in (NAME, REASONS)}
    widths[NAME] = min(wanted[NAME], _MIN_NAME)
    widths[REASONS] = min(wanted[REASONS], _MIN_REASONS)
    for column in _EXPENDABLE:
        if _total(widths) <= width:
            break
        del widths[column]
    for column in (NAME, REASONS):
        if column in widths:
            widths[column] += min(wanted[column] - widths[column], max(width - _total(widths), 0))
    return [{c: _cell(c, each[c], size) for c, size in widths.items()} for each in table]


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(widths) - 1


def _cell(column: str, text: str, width: int) -> str:
    if column == REASONS:
        while len(text) > width and text:
            text = text.rpartition(",")[0]  # one whole reason at a time
    if len(text) > width:
        text = f"{text[: width - 1]}~"
    return text.ljust(width) if column in TEXTS else text.rjust(width)


class Screen(App[None]):
    """Shows readings until the user quits or there are no more.

    Args:
        read: yields readings; the function that it gets waits some seconds, and returns true if
            the user quits meanwhile.
        column: sort by this one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("s", "sort", "Sort by the next column"),
        ("r", "reverse", "Reverse"),
    ]
    CSS = "Static { height: 1 } DataTable { height: 1fr }"
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self, read: Callable[[Callable[[float], bool]], Iterator[list[Reading]]], column: str
    ) -> None:
        super().__init__(ansi_color=True)
        self._read = read
        self._column = column
        self._is_reversed = False
        self._has_quit = Event()
        self._readings: list[Reading] = []

    def compose(self) -> ComposeResult:
        """Make the parts of the screen."""
        yield Static(id="title")
        yield DataTable[Text](cursor_type="none", cell_padding=0)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self._follow()

    def on_unmount(self) -> None:
        """End reading."""
        self._has_quit.set()

    @work(thread=True)
    def _follow(self) -> None:
        """Show each reading; in a thread of its own, because an instance may be slow to answer."""
        for readings in self._read(self._has_quit.wait):
            self.call_from_thread(self.show, readings)
        if not self._has_quit.is_set():
            self.call_from_thread(self.exit)

    def show(self, readings: list[Reading]) -> None:
        """Show readings."""
        self._readings = readings
        self._draw()

    def on_resize(self) -> None:
        """Fit the table again."""
        self._draw()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._sort(COLUMNS[(COLUMNS.index(self._column) + 1) % len(COLUMNS)])

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._is_reversed = not self._is_reversed
        self._draw()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose heading was clicked; reverse if it is that already."""
        column = str(event.column_key.value)
        if column == self._column:
            self.action_reverse()
        else:
            self._sort(column)

    def _sort(self, column: str) -> None:
        self._column, self._is_reversed = column, False
        self._draw()

    def _draw(self) -> None:
        readings = sort(self._readings, self._column, is_reversed=self._is_reversed)
        number = plural(len(readings), "instance")
        self.query_one("#title", Static).update(f"pyvmm top: {number}, by {self._column}")
        table = self.query_one(DataTable)
        place = table.scroll_y
        table.clear(columns=True)
        # A column has a space behind it, and the table may need a column for its scroll bar.
        header, *rows = layout([row(each) for each in readings], self.size.width - 3)
        for column, label in header.items():
            table.add_column(Text(f"{label} ", "bold"), key=column)
        for reading, cells in zip(readings, rows, strict=True):
            style = "dim" if reading.status.state in GONE else ""
            table.add_row(*(Text(f"{printable(cell)} ", style) for cell in cells.values()))
        table.scroll_y = place
