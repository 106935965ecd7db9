"""Every error a user can cause, with the place, what was found and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

# Characters of a long line that are shown on either side of a mistake.
_AROUND = 50
_GLANCE = 60  # characters of a value in a message


class ModelError(Exception):
    """Base of every error that a user can cause; its text stands alone, without a traceback.

    What it quotes may come from strangers, so it is shown and never obeyed: see `printable`.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class MappingError(ModelError):
    """A mapping or binding that is malformed, or does not fit its cascade or its chip."""


class HardwareError(ModelError):
    """A hardware description that is malformed or cannot do what it is asked to do."""


class KernelError(ModelError):
    """A kernel that cannot be found, compiled, run or trusted."""


class DataError(ModelError):
    """A table, measurement or result store that cannot be read or written as promised."""


class CascadeError(ModelError):
    """A cascade text or object that is not legal.

    Attributes:
        message: what was found and what was expected.
        at: (line, column), both counted from 1, or None where no text exists.
        hint: one more line that helps, for example the nearest legal name.
    """

    def __init__(self, message: str, *, at: tuple[int, int] | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.hint = hint
        self.file = ""
        self.text = ""

    @property
    def line(self) -> int | None:
        """Line of the error, counted from 1."""
        return self.at[0] if self.at else None

    @property
    def column(self) -> int | None:
        """Column of the error, counted from 1."""
        return self.at[1] if self.at else None

    def located_in(self, file: str, text: str) -> CascadeError:
        """Return itself, knowing the file and the text that it speaks of."""
        self.file, self.text = file, text
        return self

    def __str__(self) -> str:
        place = self.file or "cascade"
        if self.at is None:
            # Without a place there is nothing to point at, so the whole error is one line.
            head = f"{place}: {self.message}" if self.file else self.message
            return printable(f"{head}; {self.hint}" if self.hint else head)
        line, column = self.at
        out = [f"{place}:{line}:{column}: {self.message}"]
        # Only these end a line for the parser; str.splitlines knows half a dozen more.
        lines = self.text.replace("\r\n", "\n").split("\n")
        if self.text and 0 < line <= len(lines):
            # Tabs are kept in the caret's indentation, so that it stands below the right character.
            source, column = _excerpt(lines[line - 1], column)
            indent = "".join("\t" if c == "\t" else " " for c in printable(source[: column - 1]))
            out += [f"  {source}", f"  {indent}^"]
        if self.hint:
            out.append(f"  {self.hint}")
        return printable("\n".join(out))


def _excerpt(line: str, column: int) -> tuple[str, int]:
    """Return as much of a line as a reader takes in at a glance, and where its column is then."""
    if len(line) <= 2 * _AROUND:
        return line, column
    start = max(0, column - 1 - _AROUND)
    before, after = "... " if start else "", " ..." if start + 2 * _AROUND < len(line) else ""
    return before + line[start : start + 2 * _AROUND] + after, column - start + len(before)


def glimpse(value: object) -> str:
    """Return what was found as a message shows it: its representation, shortened to a glance.

    >>> glimpse("a" * 80)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= _GLANCE else text[: _GLANCE - 3] + "..."


def printable(text: str) -> str:
    r"""Return a text in which a terminal finds nothing to obey: all but line ends and tabs is shown or escaped.

    >>> printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def raised_at(path: Path, error: BaseException) -> str:
    """Return the last line of a file that an error, or what caused it, came through, as `path:line`; or the path."""
    import traceback

    steps: list[traceback.FrameSummary] = []
    cause: BaseException | None = error
    while cause is not None:
        steps += traceback.extract_tb(cause.__traceback__)
        cause = cause.__cause__
    lines = [s.lineno for s in steps if s.lineno and Path(s.filename).resolve() == path.resolve()]
    return f"{path}:{lines[-1]}" if lines else str(path)


def nearest(name: str, legal: Iterable[str], *, listed: int = 8, shown: Iterable[str] | None = None) -> str:
    """Return a hint that names the closest legal name, or lists the legal ones.

    Args:
        name: what was found.
        legal: what may stand there.
        listed: how many names are listed at most.
        shown: those that are listed, where some of the legal ones are only other words for them.

    >>> nearest("attention_1pas", ["attention_1pass", "attention_3pass"])
    "did you mean 'attention_1pass'?"
    >>> nearest("mib", ["B", "KiB", "MiB"])
    "did you mean 'MiB'?"
    """
    name = str(name)
    names = sorted({str(n) for n in legal})  # keys of YAML may be numbers or dates
    # Letter by letter first: where names differ by their capitals alone, the text may have only these wrong.
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        folded = {legal.casefold(): legal for legal in names}
        close = [folded[n] for n in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)]
    if close:
        return f"did you mean '{close[0]}'?"
    if shown is not None:
        names = sorted(set(shown))
    if not names:
        return "there is none"
    # A name may be the head of a table that is none: lines of it.
    told = [" ".join(n.split())[:_GLANCE] for n in names[:listed]]
    return "known: " + ", ".join(told) + (", ..." if len(names) > listed else "")
