"""Cells of a table -> lines no wider than a terminal, in which names and words stay whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

Row = Sequence[str]

_GAPS = (2, 1)  # blanks between columns; one where two leave no room
_INDENT = "  "  # of a text below its row
# A longer word (a path, a formula, joined_words of a head) may go on in the next line after a sign; a name in the first
# column never does, as it is copied into the next command.
_WHOLE, _WHOLE_HEAD = 24, 14
_BREAK, _BREAK_HEAD = re.compile(r"(?<=[/,:;=*+|])(?!\d)"), re.compile(r"(?<=[/._])(?!\d)")
_PROSE = 30  # a column that nowhere is as wide is no text that could stand below its row
_WORTH = 0.9  # texts go below their rows where that leaves at most this share of the lines
_MANY = 3  # rows from which on it is worth saying once what is the same in all


@dataclass(frozen=True, slots=True)
class Layout:
    """The lines of a table.

    Attributes:
        said: what is the same in every row and therefore in no column; empty where nothing is.
        head: lines of the heads; none where every head is empty.
        body: lines of the rows.
    """

    said: str
    head: list[str]
    body: list[str]


def lay_out(columns: Row, rows: Sequence[Row], right: Sequence[bool], width: int) -> Layout | None:
    """Return the lines of a table, or None where the terminal is too narrow for the longest words side by side.

    What does not fit as it is gives way in this order: what is the same in every row is said once; texts are wrapped
    between words; a long text goes below its row where that takes fewer lines; columns come closer; long heads and
    words are continued after a sign.

    Args:
        columns: heads of the columns.
        rows: cells; as many as heads in each row.
        right: whether a column is set to the right, as numbers are.
        width: columns of the terminal.

    >>> lay_out(["name", "n"], [["a b", "1"], ["c", "10"]], [False, True], 80).body
    ['a b    1', 'c     10']
    """
    said = ""
    if not _Plan(columns, rows, right, width).natural():
        columns, rows, right, said = _said_once(columns, rows, right)
    plan = _Plan(columns, rows, right, width)
    if plan.natural():
        return plan.drawn(said)
    for soft in (False, True):
        for gap in _GAPS:
            plans = [_Plan(columns, rows, right, width, gap, below, soft) for below in plan.texts()]
            drawn = [p.drawn(said) for p in plans if p.possible()]
            if drawn:
                fewest = min(drawn, key=lambda d: len(d.body))
                return fewest if len(fewest.body) <= _WORTH * len(drawn[0].body) else drawn[0]
    return None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One way to lay a table out: which columns stand below their rows, how far columns are apart."""

    columns: Row
    rows: Sequence[Row]
    right: Sequence[bool]
    width: int
    gap: int = _GAPS[0]
    below: tuple[int, ...] = ()
    soft: bool = False

    @property
    def beside(self) -> list[int]:
        return [i for i in range(len(self.columns)) if i not in self.below]

    def texts(self) -> list[tuple[int, ...]]:
        """Return what could stand below: nothing, the last text, the last two, ..."""
        most = self._most(range(1, len(self.columns)))
        texts = [i for i in reversed(most) if most[i] > _PROSE]
        return [tuple(reversed(texts[:n])) for n in range(len(texts) + 1)]

    def natural(self) -> bool:
        """Whether no cell needs a second line."""
        return sum(self._most(self.beside).values()) + self._gaps() <= self.width

    def possible(self) -> bool:
        """Whether the longest words fit beside each other, and below."""
        beside = sum(self._least().values()) + self._gaps()
        return max(beside, *(self._longest_of(i) + len(_INDENT) for i in self.below), 0) <= self.width

    def drawn(self, said: str) -> Layout:
        widths = self._widths()
        head = list(self._lines(self.columns, widths, head=True)) if any(self.columns) else []
        return Layout(said, head, [line for row in self.rows for line in self._lines(row, widths)])

    def _gaps(self) -> int:
        return self.gap * (len(self.beside) - 1)

    def _most(self, chosen: Sequence[int]) -> dict[int, int]:
        return {i: max(map(_size, self._cells(i))) for i in chosen}

    def _least(self) -> dict[int, int]:
        return {i: self._longest_of(i) for i in self.beside}

    def _longest_of(self, i: int) -> int:
        return max(self._longest(cell, i, n == 0) for n, cell in enumerate(self._cells(i)))

    def _longest(self, text: str, i: int, head: bool) -> int:
        first, *more = [_size(part.strip(" ")) for part in self._parts(text, i, head)] or [0]
        return max(first, *(size + len(self._hanging(i, head)) for size in more), 0)

    def _hanging(self, i: int, head: bool) -> str:
        """Return the indent of further lines of names and of texts below, so that rows can be told apart."""
        return _INDENT if not head and (i == 0 or i in self.below) else ""

    def _cells(self, i: int) -> list[str]:
        return [
            line for cell in (self.columns[i], *(row[i] for row in self.rows)) for line in cell.split("\n")
        ]

    def _widths(self) -> dict[int, int]:
        """Return a width a column: the longest word, and of the rest as much to each as it can use."""
        widths, most = self._least(), self._most(self.beside)
        room = self.width - self._gaps() - sum(widths.values())
        while room > 0 and (growing := [i for i in widths if widths[i] < most[i]]):
            widths[min(growing, key=lambda i: widths[i])] += 1
            room -= 1
        return widths

    def _lines(self, row: Row, widths: dict[int, int], *, head: bool = False) -> Iterator[str]:
        """Yield the lines of one row: the columns side by side, then what stands below them."""
        wrapped = {i: self._wrapped(row[i], i, widths[i], head=head) for i in self.beside}
        for line in range(max(map(len, wrapped.values()), default=0)):
            cells = [
                self._set(lines[line] if line < len(lines) else "", i, widths[i])
                for i, lines in wrapped.items()
            ]
            yield (" " * self.gap).join(cells).rstrip()
        for i in self.below:
            if row[i] not in ("", "-"):
                lines = self._wrapped(row[i], i, self.width - len(_INDENT), head=head)
                yield from (_INDENT + line for line in lines)

    def _set(self, text: str, i: int, width: int) -> str:
        blanks = " " * (width - _size(text))
        return blanks + text if self.right[i] else text + blanks

    def _wrapped(self, text: str, i: int, width: int, *, head: bool) -> list[str]:
        lines: list[str] = []
        for given in text.split("\n"):
            line = "" if _size(given) > width else given
            for part in () if line == given else self._parts(given, i, head):
                if line.strip() and _size(line + part) > width:
                    lines.append(line)
                    line = self._hanging(i, head)
                line = line + part if line.strip() else line + part.lstrip(" ")
            lines.append(line)
        return lines

    def _parts(self, text: str, i: int, head: bool) -> Iterator[str]:
        """Yield what a line may end after: words with the blanks before them, and pieces of long words."""
        for word in re.findall(r" *[^ ]+", text):
            if head:
                yield from _BREAK_HEAD.split(word) if self.soft or len(word) > _WHOLE_HEAD else [word]
            elif i and (self.soft or len(word) > _WHOLE):
                yield from _BREAK.split(word)
            else:
                yield word


def _said_once(
    columns: Row, rows: Sequence[Row], right: Sequence[bool]
) -> tuple[Row, list[list[str]], list[bool], str]:
    """Take out what is the same in every row: whole columns, and words that the others only add to."""
    said, kept, cut = [], [0], {}
    for i in range(1, len(columns)):
        cells = [row[i] for row in rows]
        shared = _shared([cell.split(" ") for cell in cells])
        if len(rows) < _MANY or not columns[i] or " ".join(shared) not in cells:
            kept.append(i)
        elif len(set(cells)) == 1:
            said.append(f"{columns[i]} {cells[0]}")
        else:
            said.append(f"{columns[i]} {' '.join(shared)} ...")
            cut[i] = len(shared)
            kept.append(i)
    left = [[" ".join(row[i].split(" ")[cut.get(i, 0) :]) or "-" for i in kept] for row in rows]
    return [columns[i] for i in kept], left, [right[i] for i in kept], "; ".join(said)


def _shared(texts: Sequence[list[str]]) -> list[str]:
    """Return the words that all texts begin with."""
    alike = takewhile(lambda words: len(set(words)) == 1, zip(*texts, strict=False))
    return [words[0] for words in alike]


def wrapped(text: str, width: int) -> list[str]:
    """Return a sentence as lines between words; longer words stand out.

    >>> wrapped("forced by QK -> GM", 12)
    ['forced by QK', '-> GM']
    """
    return _Plan([text], [], [False], width)._wrapped(text, 0, width, head=True)


def _size(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)
