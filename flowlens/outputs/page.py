"""One console page: paragraphs and tables that keep to its width, its encoding and the reader's wish for colour."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO
from zoneinfo import ZoneInfo

import polars as pl
from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType, detect_legacy_windows
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowlens.outputs.text import encoding_of, shown_on

Row = Mapping[str, object]
Clock = Callable[[object], str]

_NARROW = 60
"""Below this many columns a table is a list, and nothing is indented, so that an IPv6 address has the whole line."""
_LEAST = 20
_GAP = 2
_BROKEN = 14
"""How far a name that is no address may be folded in the middle of a word."""
# Begins with one sign: a run of them before it would be looked through from each of its signs on.
_ADDRESS = re.compile(r"\d\.\d+\.\d+\.\d|:[0-9a-f:]*:", re.IGNORECASE)
# Styles may begin and end among the spaces.
_TRAILING = re.compile(r" (?: |\x1b\[[0-9;]*m)*(?=\n)")
_ASCII_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


class Shown(NamedTuple):
    """One column of a terminal table: heading and how a row fills it.

    ``whole`` cells stand on one line; ``name`` cells may be folded anywhere, unless they hold an address. Columns with
    ``minor`` above 0 make room for the others where the page is too narrow, the highest first.
    """

    heading: str
    cell: Callable[[Row], str]
    whole: bool = False
    right: bool = False
    name: bool = False
    minor: int = 0


class Page:
    """What is written to one console, as wide as the console unless ``width`` says otherwise."""

    def __init__(
        self,
        out: TextIO,
        *,
        width: int | None = None,
        zone: ZoneInfo | None = None,
        colours: Mapping[str, str] | None = None,
    ) -> None:
        # NO_COLOR means no escape sequences at all, bold ones among them; an old Windows console knows none.
        bare = bool(os.environ.get("NO_COLOR")) or detect_legacy_windows()
        self._console = Console(
            file=out,
            width=width,
            color_system=None if bare else "auto",
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.width = max(_LEAST, self._console.width)
        self._console.width = self.width
        self._out = out
        self._zone = zone
        self._colours = colours or {}
        self._unicode = encoding_of(out).lower().replace("-", "").startswith("utf")

    def clock(self, time: object, *, day: bool = True) -> str:
        """A time for people: minutes, in the zone asked for, else UTC; without its date where ``day`` is false."""
        if not isinstance(time, dt.datetime):
            return ""
        local = time.astimezone(self._zone or dt.UTC)
        shown = local.strftime("%Y-%m-%d %H:%M" if day else "%H:%M")
        return shown + ("Z" if self._zone is None else local.strftime("%z"))

    def safe(self, text: object) -> str:
        """The text with escapes for what could steer the console and for what its encoding lacks."""
        return shown_on(self._out, text)

    def write(self, content: RenderableType) -> None:
        """Put one renderable, made of safe text, on the console."""
        with self._console.capture() as captured:
            self._console.print(content)
        self._out.write(_TRAILING.sub(lambda found: found[0].replace(" ", ""), captured.get()))

    def line(self, text: str = "", style: str = "", *, indent: int = 0) -> None:
        """One paragraph, folded between words at the width."""
        shown = Text(self.safe(text), style=style, overflow="fold")
        self.write(Padding(shown, (0, 0, 0, indent)) if indent and self.width >= _NARROW else shown)

    def marked(self, lines: Sequence[tuple[str, str, str, str]]) -> None:
        """Paragraphs of (mark, its style, bold start, text), the marks in a column of their own where there is room."""
        wide = self.width >= _NARROW
        grid = Table.grid(padding=(0, _GAP, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for mark, style, start, text in lines:
            head = Text(self.safe(mark), style=style)
            body = Text(self.safe(start), style="bold").append(self.safe(text), style="not bold")
            if wide:
                grid.add_row(head, body)
            else:
                self.write(head.append(" ").append_text(body))
        if wide:
            self.write(grid)

    def table(
        self, title: str, rows: pl.DataFrame, columns: Callable[[Clock], Sequence[Shown]], *, limit: int | None = None
    ) -> None:
        """The rows under their title, as a table, or as a list where a table would have to cut something.

        Where all times fall on one day the title says which, and the cells leave it out. Columns that are empty in all rows
        are left out.
        """
        head = rows.head(limit or rows.height)
        days = self._days(head)
        told = False

        def clock(time: object) -> str:
            nonlocal told
            told = told or time is not None
            return self.clock(time, day=len(days) != 1)

        chosen = columns(clock)
        cells = [[self.safe(column.cell(row)) for column in chosen] for row in head.iter_rows(named=True)]
        self.line(f"{title}, {min(days):%Y-%m-%d}" if told and len(days) == 1 else title, "bold")
        filled = [n for n in range(len(chosen)) if any(row[n] for row in cells)]
        for kept, broken in _attempts(chosen, filled):
            fitting = [chosen[n] for n in kept]
            shown = [[row[n] for n in kept] for row in cells]
            widths = self._widths(fitting, shown, broken=broken)
            if widths is not None:
                self.write(self._grid(fitting, widths, shown))
                break
        else:
            # All at once: the console looks around anew for each print.
            items = (self._item([(chosen[n].heading, row[n]) for n in filled if row[n]]) for row in cells)
            self.write(Group(*itertools.chain.from_iterable(items)))
        if rows.height > head.height:
            self.line(
                f"and {rows.height - head.height} more: see --limit, or --format csv or json for all", "dim", indent=1
            )

    def _days(self, rows: pl.DataFrame) -> set[dt.date]:
        times = [rows[name].drop_nulls() for name, kind in rows.schema.items() if isinstance(kind, pl.Datetime)]
        return {time.astimezone(self._zone or dt.UTC).date() for column in times for time in column.unique()}

    def _widths(self, columns: Sequence[Shown], cells: Sequence[Sequence[str]], *, broken: bool) -> list[int] | None:
        """A width for each column that cuts no word but names, and those if ``broken``; None where there is no room."""
        if self.width < _NARROW:
            return None
        least, most = [], []
        for n, column in enumerate(columns):
            words = [column.heading, *(row[n] for row in cells)]
            most.append(max(map(cell_len, words)))
            stiff = column.whole or column.right
            least.append(most[-1] if stiff else max(_least(word, broken=broken and column.name) for word in words))
        free = self.width - _GAP * len(columns) - sum(least)
        if free < 0:
            return None
        # Whoever lacks least is served first, so that as many columns as possible stand on one line.
        for n in sorted(range(len(columns)), key=lambda n: most[n] - least[n]):
            more = min(free, most[n] - least[n])
            least[n] += more
            free -= more
        return least

    def _grid(self, columns: Sequence[Shown], widths: Sequence[int], cells: Sequence[Sequence[str]]) -> Table:
        head = SIMPLE_HEAD if self._unicode else _ASCII_HEAD
        grid = Table(box=head, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        for column, width in zip(columns, widths, strict=True):
            grid.add_column(
                column.heading,
                width=width,
                justify="right" if column.right else "left",
                overflow="fold",
                header_style="dim",
            )
        for row in cells:
            grid.add_row(*(Text(cell, style=self._colours.get(cell, "")) for cell in row))
        return grid

    def _item(self, fields: Sequence[tuple[str, str]]) -> Iterator[Text]:
        for n, (heading, cell) in enumerate(fields):
            lead = Text(f"{'  ' if n else '- '}{heading}: ", overflow="fold")
            yield lead.append(cell, style=self._colours.get(cell, ""))


def _attempts(columns: Sequence[Shown], filled: Sequence[int]) -> list[tuple[list[int], bool]]:
    """The columns to try, and whether to break names: all that are filled, then without the most minor ones, and so on."""
    kept = [list(filled)]
    for minor in sorted({columns[n].minor for n in filled} - {0}, reverse=True):
        kept.append([n for n in kept[-1] if columns[n].minor < minor])
    return [(some, broken) for broken in (False, True) for some in kept]


def _least(text: str, *, broken: bool) -> int:
    """The narrowest that ``text`` may be folded to."""
    longest = max((cell_len(word) for word in text.split(" ") if not broken or _ADDRESS.search(word)), default=0)
    return max(longest, min(cell_len(text), _BROKEN)) if broken else longest
