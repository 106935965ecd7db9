"""What every command shares: JSON or table on stdout, everything else on stderr, exit codes."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar, cast

import typer
from typer.core import TyperGroup

from .errors import CascadeError, ModelError, printable

P = ParamSpec("P")
R = TypeVar("R")

GOOD, OUT_OF_TOLERANCE, USER_MISTAKE = 0, 1, 2
# What a shell reports of a program whose reader went away (128 + SIGPIPE): 1 would say "out of tolerance".
READER_GONE = 141

_JSON = "einsum_cascade.json"  # under this a call remembers whether `--json` was given

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]


# What the command line raises on an option that is missing, unknown or of another type: the base of the public class.
_Usage = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


def fail(message: str, *, json: bool = False) -> NoReturn:
    """Print one clear message on stderr and leave with the exit code of a user's mistake.

    Args:
        message: what was found, what was expected.
        json: stdout was asked to hold a document; then the message is there too, for who reads nothing else.
    """
    typer.echo(printable(message), err=True)
    if json:
        _emit_refusal(message)
    raise typer.Exit(USER_MISTAKE)


def _emit_refusal(message: str) -> None:
    """Write the document of a command that was refused; not where stdout itself is what failed."""
    with contextlib.suppress(OSError):
        emit_json({"ok": False, "error": printable(message)})


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Return the command with every ModelError turned into its message and exit code 2.

    What the system refuses meanwhile, a full disk or a file that may not be read, is told in one line as well.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        json = bool(kwargs.get("json"))
        try:
            with _for_the_document(json):
                done = command(*args, **kwargs)
            _flush()
            return done
        except ModelError as error:
            _locate(error, kwargs.values())
            fail(str(error), json=json)
        except BrokenPipeError:
            _leave_if_nobody_reads()
            raise
        except OSError as error:
            message = f"{error.filename or 'the result'}: {error.strerror or error}"
            if json and error.filename:
                _emit_refusal(message)
            _drop_what_is_left()
            fail(message)

    return run


def _locate(error: ModelError, given: Iterable[object]) -> None:
    """Tell an error at a line of a cascade, which only its reader knew as a file, where that line stands."""
    if not isinstance(error, CascadeError) or error.at is None or error.file:
        return
    files = [name for name in given if isinstance(name, str) and name.endswith(".cascade")]
    if len(files) == 1:
        with contextlib.suppress(OSError, ValueError):
            error.located_in(files[0], Path(files[0]).read_text(encoding="utf-8"))


class Commands(TyperGroup):
    """A group of commands that refuses an argument that is empty, as an unset variable of a shell script is.

    Left to the commands it would be taken for an option that was not given (`--inputs ""` for random inputs), or for
    the current folder (`--out ""`). An option that is missing or unknown is told on stdout too where `--json` stands.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look at what was given."""
        ctx.meta[_JSON] = "--json" in args
        for before, given in zip(["", *args], args, strict=False):
            if not given.strip() or re.fullmatch(r"--[\w-]+=\s*", given):
                option = next((a for a in (given, before) if a.startswith("-")), "")
                message = f"{option.rstrip('= ') or 'an argument'}: expected a value, found an empty text"
                fail(message, json=ctx.meta[_JSON])
        with _told(ctx.meta[_JSON]):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that was named and its arguments, none of whose values is one of its own options.

        `--out --json` would write a file of that name, and no document.
        """
        found = super().resolve_command(ctx, args)
        _, command, rest = found
        while isinstance(command, TyperGroup):
            command, rest = command.commands.get(rest[0]) if rest else None, rest[1:]
        words = {word: param for param in getattr(command, "params", ()) for word in param.opts}
        for option, value in itertools.pairwise(itertools.takewhile("--".__ne__, rest)):
            takes_one = option in words and not getattr(words[option], "is_flag", False)
            if takes_one and option.startswith("-") and value.startswith("-") and value in words:
                fail(f"{option}: expected a value, found the option {value}", json=ctx.meta[_JSON])
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named; its options are parsed here."""
        with _told(ctx.meta[_JSON]):
            return super().invoke(ctx)


@contextlib.contextmanager
def _told(json: bool) -> Iterator[None]:
    """Write the document of a refusal before what is wrong with the options goes on to stderr."""
    try:
        yield
    except _Usage as error:
        if json:
            _emit_refusal(error.format_message())
        raise


def _flush() -> None:
    """Write what is buffered now, so that a failure is told like any other; nothing where stdout is closed."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _leave_if_nobody_reads() -> None:
    """Leave without a word if it is the reader of stdout that went away, as `head` does."""
    waiting = select.poll()
    try:
        waiting.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):
        return  # stdout is closed, or no file
    if waiting.poll(0):
        _drop_what_is_left()
        raise typer.Exit(READER_GONE)


def _drop_what_is_left() -> None:
    """Send what is still buffered nowhere: the interpreter writes it again when it leaves, and would complain."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        return  # stdout is closed, or no file
    os.close(nowhere)


class _Beside:
    """Stands in for stdout while that waits for its document: what a stranger's file prints goes to stderr."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self._other = sys.stderr or io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


def _for_the_document(json: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context in which stdout takes a document and nothing else, where one is asked for."""
    stdout = cast("io.TextIOBase", _Beside(sys.stdout))
    return contextlib.redirect_stdout(stdout) if json else contextlib.nullcontext()


def emit_json(value: Any) -> None:
    """Write one JSON document to stdout; not-a-number never leaves, infinities become null."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    typer.echo(text, file=getattr(sys.stdout, "document", sys.stdout))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _plain(value.item())
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    return str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, note: str = "") -> None:
    """Print a table for people on stdout; numbers are right-aligned, and names stay whole.

    Where the terminal is too narrow for so many columns, each row becomes lines of its own.
    """
    from .layout import lay_out, wrapped

    values = [list(r) for r in rows]
    cells = [[cell(v) for v in r] for r in values]
    numeric = [
        bool(values) and all(isinstance(r[i], (int, float)) or r[i] is None for r in values)
        for i in range(len(columns))
    ]
    width = _width()
    found = lay_out(columns, cells, numeric, width)
    if found is None:
        blocks = ["\n".join(f"{c}: {v}" for c, v in zip(columns, r, strict=True)) for r in cells]
        typer.echo("\n\n".join(filter(None, [printable(title), *blocks, note])))
        return
    said = wrapped(f"every row: {found.said}", width) if found.said else []
    size = max(map(len, [*found.head, *found.body]), default=0)
    heavy, light = ("━", "─") if _takes_lines() else ("=", "-")
    head = [typer.style(line, bold=True) for line in found.head]
    lines = [*wrapped(printable(title), width), *said, heavy * size]
    lines += [*head, light * size] if head else []
    typer.echo("\n".join([*lines, *found.body, heavy * size, *(wrapped(note, width) if note else [])]))


def _width() -> int:
    """Return the columns of the terminal: as the environment says, else of the one that is used, else 80."""
    if (said := os.environ.get("COLUMNS", "")).isdigit() and int(said):
        return int(said)
    for stream in (
        sys.stdout,
        sys.stderr,
        sys.stdin,
    ):  # of `cascade ... | less` stderr and stdin are the terminal
        with contextlib.suppress(AttributeError, OSError, ValueError):
            if columns := os.get_terminal_size(stream.fileno()).columns:
                return columns
    return 80


def _takes_lines() -> bool:
    """Whether stdout can write what rules are drawn with."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def cell(value: Any) -> str:
    """Return a value as a table cell.

    >>> cell(0.000123456), cell(1234567), cell(None)
    ('0.0001235', '1,234,567', '-')
    """
    if (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and value != value)
    ):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def bar(what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Return what shows a progress bar while items are gone through, and leaves none behind."""
    from tqdm.auto import tqdm

    return lambda items: tqdm(items, desc=what, leave=False, disable=None)


def note(message: str) -> None:
    """Print a line for people on stderr."""
    typer.echo(printable(message), err=True)
