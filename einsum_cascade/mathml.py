"""Cascade -> MathML, which browsers set without a library or a network: one table row an Einsum."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .cascade import Cascade
from .declarations import Iterate
from .einsum import Einsum, Reduction
from .expr import Access, Apply, Compare, Expr, Num, Size, Var
from .printer import ATOM, expression, strength

_GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "eta": "η",
    "lambda": "λ",
    "mu": "μ",
    "sigma": "σ",
    "theta": "θ",
}
_COMPARE = {"<=": "≤", ">=": "≥", "==": "=", "!=": "≠", "<": "<", ">": ">"}
_SIGNS = {"+": "+", "-": "−", "*": "·", "%": "mod", "and": "∧", "or": "∨"}
_REDUCTIONS = {"sum": "∑", "prod": "∏"}
_FENCES = {"abs": ("|", "|"), "floor": ("⌊", "⌋")}
_SPACE = '<mspace width="0.6em"/>'
_FUNCTIONS = {"sigmoid": "σ", "exp": "exp"}


def mathml(cascade: Cascade) -> str:
    """Return the Einsums of a cascade as one MathML table, aligned at the equals signs.

    >>> from einsum_cascade import zoo
    >>> mathml(zoo.load("gemm")).count("<mtr>")
    1
    """
    rows: list[str] = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            head = (
                _row("mtext", "for")
                + _SPACE
                + _symbol(item.variable)
                + _operator("=")
                + _row("mtext", "0, 1, …")
            )
            rows.append(f'<mtr><mtd class="step" columnspan="2">{head}</mtd></mtr>')
            rows += [_line(e, inside=True) for e in item.einsums]
        else:
            rows.append(_line(item))
    return f'<math display="block"><mtable class="cascade">{"".join(rows)}</mtable></math>'


def expression_mathml(node: Expr) -> str:
    """Return an expression as MathML.

    >>> from einsum_cascade.parser import parse_expression
    >>> expression_mathml(parse_expression("A[p] / N"))
    '<mfrac><msub><mi>A</mi><mi>p</mi></msub><mi>N</mi></mfrac>'
    """
    if isinstance(node, Num):
        return f"<mn>{escape(expression(node).replace('inf', '∞').replace('-', '−'))}</mn>"
    if isinstance(node, (Size, Var)):
        return _symbol(node.name)
    if isinstance(node, Access):
        below = _listed(expression_mathml(i) for i in node.indices)
        name = f"<mi>{escape(node.tensor)}</mi>"
        return f"<msub>{name}{_group(below)}</msub>" if below else name
    if isinstance(node, Compare):
        out = _bracketed(node.args[0], strength(node) + 1)
        for op, part in zip(node.ops, node.args[1:], strict=True):
            out += _operator(_COMPARE[op]) + _bracketed(part, strength(node) + 1)
        return _group(out)
    return _applied(node)


def _line(einsum: Einsum, *, inside: bool = False) -> str:
    value = expression_mathml(einsum.value)
    for number, r in enumerate(einsum.all_reductions):
        if number == 0 and isinstance(einsum.value, Apply) and einsum.value.op in ("+", "-"):
            value = _fenced(value)
        value = _reduction(r) + value
    if einsum.where is not None:
        value += f'{_SPACE}<mtext class="where">where</mtext>{_SPACE}{expression_mathml(einsum.where)}'
    left = ('<mspace width="1.2em"/>' if inside else "") + expression_mathml(einsum.target)
    return f"<mtr><mtd>{left}</mtd><mtd>{_operator('=')}{value}</mtd></mtr>"


def _reduction(r: Reduction) -> str:
    below = _listed(_symbol(v) for v in r.variables)
    if r.into:
        below += _operator("→") + _symbol(r.into) + (_SPACE + _row("mtext", "sorted") if r.sorted else "")
    sign = _operator(_REDUCTIONS[r.op]) if r.op in _REDUCTIONS else _row("mi", r.op)
    return f'<munder>{sign}{_group(below)}</munder><mspace width="0.17em"/>'


def _applied(node: Apply) -> str:
    op, args = node.op, node.args
    if op == "/":
        return f"<mfrac>{_group(expression_mathml(args[0]))}{_group(expression_mathml(args[1]))}</mfrac>"
    if op == "//":
        return _fenced(
            f"<mfrac>{_group(expression_mathml(args[0]))}{_group(expression_mathml(args[1]))}</mfrac>",
            "⌊",
            "⌋",
        )
    if op == "**":
        return f"<msup>{_group(_bracketed(args[0], ATOM))}{_group(expression_mathml(args[1]))}</msup>"
    if op == "exp":
        return f"<msup><mi>e</mi>{_group(expression_mathml(args[0]))}</msup>"
    if op == "sqrt":
        return f"<msqrt>{expression_mathml(args[0])}</msqrt>"
    if op in _FENCES:
        return _fenced(expression_mathml(args[0]), *_FENCES[op])
    if op in ("neg", "not"):
        return _group(_operator("−" if op == "neg" else "¬") + _bracketed(args[0], strength(node)))
    if op in _SIGNS:
        left, right = _bracketed(args[0], strength(node)), _bracketed(args[1], strength(node) + 1)
        return _group(left + _operator(_SIGNS[op]) + right)
    name = _row("mi", _FUNCTIONS.get(op, op))
    return _group(name + _fenced(_listed(expression_mathml(a) for a in args)))


def _bracketed(node: Expr, needed: int) -> str:
    """Return a part with brackets where it binds less tightly than its place asks for; a fraction needs none."""
    inner = expression_mathml(node)
    closed = isinstance(node, Apply) and (node.op == "//" or (node.op == "/" and needed < ATOM))
    return inner if closed or strength(node) >= needed else _fenced(inner)


def _symbol(name: str) -> str:
    if name in _GREEK:
        return f"<mi>{_GREEK[name]}</mi>"
    head = name.rstrip("0123456789")
    digits = name[len(head) :]
    shown = f"<mi>{escape(head)}</mi>"
    return f"<msub>{shown}<mn>{digits}</mn></msub>" if digits else shown


def _listed(parts: Iterable[str]) -> str:
    return _operator(",").join(parts)


def _fenced(inner: str, left: str = "(", right: str = ")") -> str:
    return _group(f"{_operator(left)}{inner}{_operator(right)}")


def _group(inner: str) -> str:
    """Return what must be one element; a single one already is."""
    return inner if _is_single(inner) else f"<mrow>{inner}</mrow>"


def _is_single(inner: str) -> bool:
    """Tell whether the text is exactly one element with all that is in it."""
    depth = position = 0
    while (start := inner.find("<", position)) >= 0:
        end = inner.index(">", start)
        depth += -1 if inner[start + 1] == "/" else (0 if inner[end - 1] == "/" else 1)
        position = end + 1
        if depth == 0:
            return position == len(inner)
    return False


def _operator(sign: str) -> str:
    return f"<mo>{escape(sign)}</mo>"


def _row(tag: str, text: str) -> str:
    return f"<{tag}>{escape(text)}</{tag}>"
