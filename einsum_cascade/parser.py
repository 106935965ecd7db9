"""Text -> Cascade; errors carry line, column, caret and a hint."""

from __future__ import annotations

import functools
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken

from .cascade import Cascade
from .declarations import Constant, Iterate, Rank, Signature
from .einsum import Einsum, Reduction
from .errors import CascadeError, glimpse, nearest
from .expr import Access, Apply, Compare, Expr, Num, Place, Size, Var
from .ops import COMPARISON, SIGNS, STRENGTH

# Far above every attention ever published, and small enough that no text can exhaust memory.
MAX_CHARACTERS = 50_000
MAX_NESTING = 60
# What a terminal obeys rather than shows, or what makes a text read otherwise than it is written.
_CONTROLS = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]|\\r(?!\\n)"
)
RESERVED = frozenset({"and", "or", "not", "where", "inf", "iterate"})


def parse(text: str, *, file: str = "cascade") -> Cascade:
    """Return the cascade that a text describes.

    Args:
        text: in the cascade language.
        file: the name to show in errors.

    Raises:
        CascadeError: with line, column, the line itself with a caret, and a hint.

    >>> gemm = '''cascade gemm
    ... rank I J K
    ... input A[K, I] B[K, J]
    ... output C[I, J]
    ... C[i, j] = A[k, i] * B[k, j]
    ... '''
    >>> parse(gemm).einsums[0].reduced
    ('k',)
    """
    try:
        _guard(text)
        built: Cascade = _parser("start").parse(text if text.endswith("\n") else text + "\n")
        return built
    except UnexpectedInput as error:
        raise _syntax_error(error, text).located_in(file, text) from None
    except CascadeError as error:
        raise error.located_in(file, text) from None


def parse_expression(text: str, *, file: str = "expression") -> Expr:
    """Return the expression that a text describes; data files use the same small language.

    >>> parse_expression("2 * N")
    Apply(op='*', args=(Num(value=2), Size(name='N')))

    Raises:
        CascadeError: as `parse` does.
    """
    try:
        _guard(text)
        if "\n" in text:
            raise CascadeError("an expression stands on one line", at=(1, 1))
        built: Expr = _parser("expr").parse(text)
        return built
    except UnexpectedInput as error:
        raise _syntax_error(error, text).located_in(file, text) from None
    except CascadeError as error:
        raise error.located_in(file, text) from None


def load(path: str | Path) -> Cascade:
    """Return the cascade in a file.

    Raises:
        CascadeError: the file cannot be read, is empty or binary, or its text is not a legal cascade.
    """
    shown = str(path)
    try:
        data = Path(path).read_bytes()
    except TypeError:
        raise CascadeError(f"expected the path of a cascade, found {glimpse(path)}") from None
    except (OSError, ValueError) as error:
        raise CascadeError(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CascadeError(f"{shown}: a cascade is UTF-8 text; this file is binary") from None
    if "\0" in text:
        raise CascadeError(f"{shown}: a cascade is UTF-8 text; this file is binary")
    if not text.strip():
        raise CascadeError(f"{shown}: the file is empty; a cascade begins with 'cascade NAME'")
    return parse(text, file=shown)


def _guard(text: str) -> None:
    """Bound what the parser is given, before it allocates anything."""
    if not isinstance(text, str):
        raise CascadeError(f"expected a text, found {glimpse(text)}", hint="load(path) reads a file")
    if len(text) > MAX_CHARACTERS:
        raise CascadeError(f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    control = _CONTROLS.search(text)
    if control is not None:
        before = text[: control.start()]
        at = (before.count("\n") + 1, control.start() - before.rfind("\n"))
        raise CascadeError(f"a text holds no control characters; found {control.group()!r}", at=at)
    depth = 0
    line, start = 1, 0
    for match in re.finditer(r"[()\[\]\n]", text):
        c = match.group()
        if c == "\n":
            line, start, depth = line + 1, match.end(), 0
        elif c in "([":
            depth += 1
            if depth > MAX_NESTING:
                at = (line, match.start() - start + 1)
                raise CascadeError(f"brackets nest more than {MAX_NESTING} deep", at=at)
        else:
            depth -= 1


@functools.cache
def _parser(start: str) -> Any:
    grammar = resources.files(__package__).joinpath("grammar.lark").read_text(encoding="utf-8")
    # Nodes are built while the text is read: no tree is walked, so no text can exhaust the stack.
    return Lark(grammar, parser="lalr", start=start, transformer=_Builder(), maybe_placeholders=True)


_EXPECTED = {
    "_NL": "the end of the line",
    "$END": "the end of the text",
    "COLON": "':'",
    "__ANON_0": "':: reduction'",
    "WHERE": "'where'",
    "STRING": "a string in double quotes",
    "NAME": "a name in capitals",
    "VAR": "a name in lower case",
    "NUMBER": "a number",
}
# Where a number and a bracket may stand, any expression may.
_VALUE = frozenset({"NUMBER", "NAME", "LPAR"})
_OPERATORS = frozenset({"OPERATOR", "MINUS"})


def _syntax_error(error: UnexpectedInput, text: str) -> CascadeError:
    found = str(error.token) if isinstance(error, UnexpectedToken) else str(getattr(error, "char", ""))
    # LALR tables merge look-aheads; only trying each terminal tells what could really stand here.
    state = getattr(error, "interactive_parser", None)
    accepted: set[str] = set(state.accepts()) if state is not None else set()
    lines = text.removesuffix("\n").split("\n")
    line, column = error.line, error.column
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    if at_end or not isinstance(line, int) or line < 1:
        line, column = len(lines), len(lines[-1]) + 1
    elif isinstance(error, UnexpectedToken) and error.token.type == "_NL" and line <= len(lines):
        # A newline token begins with blanks and comments; the reader's eye is where the words end.
        column = len(lines[line - 1].split("#")[0].rstrip()) + 1
    return CascadeError(_expectation(accepted, found), at=(line, column), hint=_syntax_hint(found))


def _expectation(accepted: set[str], found: str) -> str:
    parts: list[str] = []
    if accepted >= _VALUE:
        parts.append("a value")
        accepted = accepted - _VALUE - {"MINUS", "VAR", "INF", "NOT"}
    if accepted & _OPERATORS:
        parts.append("an operator")
    for terminal in sorted(accepted - _OPERATORS):
        shown = _EXPECTED.get(terminal) or _literal(terminal)
        if shown and shown not in parts:
            parts.append(shown)
    order = ["an operator", "':: reduction'", "'where'", "the end of the line"]
    parts.sort(key=lambda p: order.index(p) if p in order else -1 if p == "an operator" else len(order))
    shown_found = "" if not found.strip() else f", found '{found.strip()[:20]}'"
    if not parts:
        return f"unexpected '{found}'" if found.strip() else "unexpected end"
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " or " + parts[-1]
    return f"expected {listed}{shown_found}"


def _literal(terminal: str) -> str:
    for t in _parser("start").terminals:
        if t.name == terminal:
            raw = str(t.pattern.value)
            return f"'{raw}'" if t.pattern.type == "str" else ""
    return ""


def _syntax_hint(found: str) -> str:
    word = found.strip()
    starters = ("cascade", "rank", "let", "input", "output", "source", "iterate", "where")
    if word.isalpha() and word not in starters:
        hint = nearest(word, starters)
        return hint if hint.startswith("did you mean") else ""
    return ""


def _at(token: Any) -> Place:
    return (token.line, token.column)


class _Builder(Transformer[Token, Any]):
    """Parse tree -> frozen nodes; each method is named after the rule it builds."""

    def start(self, parts: list[Any]) -> Cascade:
        name, summary, source = parts[0]
        flat: list[Any] = []
        for p in parts[1:]:
            flat.extend(p if isinstance(p, list) else [p])

        def pick(kind: type | tuple[type, ...]) -> tuple[Any, ...]:
            return tuple(p for p in flat if isinstance(p, kind))

        signatures = [p for p in flat if isinstance(p, tuple)]
        return Cascade(
            name=name,
            summary=summary,
            source=source,
            ranks=pick(Rank),
            constants=pick(Constant),
            inputs=tuple(s for side, s in signatures if side == "input"),
            outputs=tuple(s for side, s in signatures if side == "output"),
            body=pick((Einsum, Iterate)),
        )

    def head(self, parts: list[Any]) -> tuple[str, str, str]:
        name, summary, source = parts
        return str(name), summary or "", source or ""

    def summary(self, parts: list[Any]) -> str:
        return str(parts[0])[1:-1]

    def provenance(self, parts: list[Any]) -> str:
        return str(parts[0])[1:-1]

    def ranks(self, parts: list[Token]) -> list[Rank]:
        return [Rank(str(p), at=_at(p)) for p in parts]

    def derived(self, parts: list[Any]) -> Rank:
        return Rank(str(parts[0]), parts[1], at=_at(parts[0]))

    def constant(self, parts: list[Any]) -> Constant:
        return Constant(str(parts[0]), parts[1], at=_at(parts[0]))

    def signature(self, parts: list[Any]) -> Signature:
        ranks = tuple(str(p) for p in parts[1:] if p is not None)
        return Signature(str(parts[0]), ranks, at=_at(parts[0]))

    def inputs(self, parts: list[Signature]) -> list[tuple[str, Signature]]:
        return [("input", s) for s in parts]

    def outputs(self, parts: list[Signature]) -> list[tuple[str, Signature]]:
        return [("output", s) for s in parts]

    def iterate(self, parts: list[Any]) -> Iterate:
        return Iterate(_variable(parts[0]), tuple(parts[1:]), at=_at(parts[0]))

    def einsum(self, parts: list[Any]) -> Einsum:
        target, value, *rest = parts
        reductions = tuple(p for p in rest if isinstance(p, Reduction))
        where = rest[-1] if rest and not isinstance(rest[-1], Reduction) else None
        return Einsum(target, value, reductions, where, at=target.at)

    def reduction(self, parts: list[Token]) -> Reduction:
        return Reduction(str(parts[0]), tuple(_variable(p) for p in parts[1:]), at=_at(parts[0]))

    def selection(self, parts: list[Any]) -> Reduction:
        op, source, into, ordered = parts
        return Reduction(str(op), (_variable(source),), _variable(into), ordered is not None, at=_at(op))

    def access(self, parts: list[Any]) -> Access:
        return Access(str(parts[0]), tuple(p for p in parts[1:] if p is not None), at=_at(parts[0]))

    def expr(self, parts: list[Any]) -> Expr:
        return _bound(parts)

    def number(self, parts: list[Token]) -> Num:
        text = str(parts[0])
        if text.isdigit():
            if len(text) > 18:
                raise CascadeError("a whole number has at most 18 digits", at=_at(parts[0]))
            return Num(int(text), at=_at(parts[0]))
        value = float(text)
        if math.isinf(value):
            raise CascadeError(
                f"{text} is beyond what a float64 can hold", at=_at(parts[0]), hint="write inf"
            )
        return Num(value, at=_at(parts[0]))

    def infinity(self, parts: list[Token]) -> Num:
        return Num(math.inf, at=_at(parts[0]))

    def size(self, parts: list[Token]) -> Size:
        return Size(str(parts[0]), at=_at(parts[0]))

    def variable(self, parts: list[Token]) -> Var:
        return Var(_variable(parts[0]), at=_at(parts[0]))

    def call(self, parts: list[Any]) -> Expr:
        return Apply(str(parts[0]), tuple(parts[1:]), at=_at(parts[0]))


def _variable(token: Any) -> str:
    if str(token) in RESERVED:
        raise CascadeError(f"'{token}' is a word of the language and cannot name a variable", at=_at(token))
    return str(token)


def _bound(parts: list[Any]) -> Expr:
    """Return values and operators that stand in a row as one expression.

    An operator waits until one follows that binds less tightly; nothing recurs, so no row can exhaust the stack.
    """
    values: list[Expr] = []
    waiting: list[tuple[str, Token]] = []
    expected = True  # a value, so that an operator found is a sign
    for part in parts:
        if not isinstance(part, Token):
            values.append(part)
            expected = False
            continue
        op = SIGNS[part.value] if expected else part.value
        if not expected:
            rightmost_first = op == "**" or op in COMPARISON
            _apply(values, waiting, STRENGTH[op] + rightmost_first)
        elif waiting and STRENGTH[waiting[-1][0]] > STRENGTH[op] == STRENGTH["not"]:
            raise CascadeError(f"expected a value, found '{op}'", at=_at(part))
        waiting.append((op, part))
        expected = True
    _apply(values, waiting, 0)
    return values[0]


def _apply(values: list[Expr], waiting: list[tuple[str, Token]], least: int) -> None:
    """Apply the operators that wait and bind at least so tightly, the last first."""
    while waiting and STRENGTH[waiting[-1][0]] >= least:
        op, token = waiting.pop()
        if op in SIGNS.values():
            values[-1] = Apply(op, (values[-1],), at=_at(token))
        elif op in COMPARISON:
            ops = [op]
            while waiting and waiting[-1][0] in COMPARISON:
                ops.append(waiting.pop()[0])
            args = tuple(values[-len(ops) - 1 :])
            values[-len(ops) - 1 :] = [Compare(tuple(reversed(ops)), args, at=args[0].at)]
        else:
            right = values.pop()
            values[-1] = Apply(op, (values[-1], right), at=_at(token))
