"""Cascade -> canonical text and LaTeX; `parse(render(c)) == c`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .cascade import Cascade, require
from .declarations import Iterate, Signature
from .einsum import Einsum, Reduction
from .expr import Access, Apply, Compare, Expr, Num, Size, Var, walk
from .ops import SCALAR, STRENGTH

_COMPARES, ATOM = STRENGTH["<"], 9


def render(cascade: Cascade) -> str:
    """Return the canonical text of a cascade; parsing it gives an equal cascade."""
    require(cascade)
    lines = [f"cascade {cascade.name}"]
    if cascade.summary:
        lines.append(f'"{cascade.summary}"')
    if cascade.source:
        lines.append(f'source "{cascade.source}"')
    lines += _declarations(cascade)
    run: list[Einsum] = []
    for item in cascade.body:
        if isinstance(item, Einsum):
            run.append(item)
            continue
        lines += _aligned(run)
        run = []
        lines += [f"iterate {item.variable} {{", *(f"  {line}" for line in _aligned(item.einsums)), "}"]
    return "\n".join(lines + _aligned(run)) + "\n"


def expression(node: Expr) -> str:
    """Return an expression as text.

    >>> from einsum_cascade.parser import parse_expression
    >>> expression(parse_expression("2*(N+1) ** 2"))
    '2*(N + 1)**2'
    """
    return _text(node)[0]


def strength(node: Expr) -> int:
    """Return how tightly the outermost operator of an expression binds; ATOM where it has none."""
    return _text(node)[1]


def _declarations(cascade: Cascade) -> list[str]:
    lines = []
    implied: set[str] = set()
    for rank in cascade.ranks:
        if rank.size is not None:
            implied |= _names(rank.size)
    free = [r.name for r in cascade.ranks if r.size is None and r.name not in implied]
    if free:
        lines.append("rank   " + " ".join(free))
    lines += [f"rank   {r.name} = {expression(r.size)}" for r in cascade.ranks if r.size is not None]
    lines += [f"let    {c.name} = {expression(c.value)}" for c in cascade.constants]
    if cascade.inputs:
        lines.append("input  " + "  ".join(map(signature, cascade.inputs)))
    if cascade.outputs:
        lines.append("output " + "  ".join(map(signature, cascade.outputs)))
    return lines


def _names(node: Expr) -> set[str]:
    return {n.name for n in walk(node) if isinstance(n, Size)}


def signature(s: Signature) -> str:
    """Return a tensor with its ranks: `Q[E, P]`."""
    return f"{s.tensor}[{', '.join(s.ranks)}]"


def _sides(einsum: Einsum) -> tuple[str, str]:
    right = expression(einsum.value)
    for r in einsum.reductions:
        right += f" :: {_reduction(r)}"
    if einsum.where is not None:
        right += f" where {expression(einsum.where)}"
    return expression(einsum.target), right


def _reduction(r: Reduction) -> str:
    if r.into:
        return f"{r.op}({r.variables[0]} -> {r.into}{', sorted' if r.sorted else ''})"
    return f"{r.op}({', '.join(r.variables)})"


def _aligned(einsums: Sequence[Einsum]) -> list[str]:
    sides = [_sides(e) for e in einsums]
    width = max((len(left) for left, _ in sides), default=0)
    return [f"{left:<{width}} = {right}" for left, right in sides]


def _text(node: Expr) -> tuple[str, int]:
    """Return the text of a node and how tightly its outermost operator binds."""
    if isinstance(node, Num):
        return _number(node.value), ATOM if node.value >= 0 else STRENGTH["neg"]
    if isinstance(node, (Size, Var)):
        return node.name, ATOM
    if isinstance(node, Access):
        return f"{node.tensor}[{', '.join(_text(i)[0] for i in node.indices)}]", ATOM
    if isinstance(node, Compare):
        # Neither side of a comparison may be a comparison, so equal strength needs brackets too.
        parts = [_bracket(a, _COMPARES + 1) for a in node.args]
        out = parts[0]
        for op, part in zip(node.ops, parts[1:], strict=True):
            out += f" {op} {part}"
        return out, _COMPARES
    return _applied(node)


def _applied(node: Apply) -> tuple[str, int]:
    op = node.op
    if op not in STRENGTH:
        return f"{op}({', '.join(_text(a)[0] for a in node.args)})", ATOM
    strength = STRENGTH[op]
    if op == "neg":
        return f"-{_bracket(node.args[0], strength)}", strength
    if op == "not":
        return f"not {_bracket(node.args[0], strength)}", strength
    if op == "**":
        # The base is an atom, the exponent a unary: that is how the grammar reads it back.
        return f"{_bracket(node.args[0], ATOM)}**{_bracket(node.args[1], STRENGTH['neg'])}", strength
    left, right = _bracket(node.args[0], strength), _bracket(node.args[1], strength + 1)
    tight = op in ("*", "//", "%") and all(
        isinstance(a, (Num, Size, Var)) or "(" in t for a, t in zip(node.args, (left, right), strict=True)
    )
    return (f"{left}{op}{right}" if tight else f"{left} {op} {right}"), strength


def _bracket(node: Expr, needed: int) -> str:
    text, strength = _text(node)
    return text if strength >= needed else f"({text})"


def _number(value: int | float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


_GREEK = {"alpha", "beta", "gamma", "delta", "eta", "lambda", "mu", "sigma", "theta"}
_LATEX_COMPARE = {"<=": r"\le", ">=": r"\ge", "==": "=", "!=": r"\ne", "<": "<", ">": ">"}


def latex(cascade: Cascade) -> str:
    """Return the Einsums of a cascade as a LaTeX `align*` environment."""
    require(cascade)
    lines = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            lines.append(rf"&\text{{for }} {_symbol(item.variable)} = 0, 1, \dots \\")
            lines += [_latex_line(e, indent=r"\quad ") for e in item.einsums]
        else:
            lines.append(_latex_line(item))
    return "\\begin{align*}\n" + "\n".join(lines) + "\n\\end{align*}\n"


def _latex_line(einsum: Einsum, *, indent: str = "") -> str:
    value = latex_expression(einsum.value)
    for r in einsum.all_reductions:
        over = ", ".join(map(_symbol, r.variables))
        over += rf" \to {_symbol(r.into)}" if r.into else ""
        over += r" \text{ sorted}" if r.sorted else ""
        sign = {"sum": r"\sum", "prod": r"\prod", "max": r"\max", "min": r"\min"}.get(
            r.op, rf"\operatorname{{{r.op}}}"
        )
        body = (
            rf"\left({value}\right)"
            if isinstance(einsum.value, Apply) and einsum.value.op in ("+", "-")
            else value
        )
        value = rf"{sign}_{{{over}}} {body}"
    where = rf" \quad\text{{where }} {latex_expression(einsum.where)}" if einsum.where is not None else ""
    return rf"{indent}{latex_expression(einsum.target)} &= {value}{where} \\"


def latex_expression(node: Expr) -> str:
    r"""Return an expression as LaTeX.

    >>> print(latex_expression(Apply("/", (Access("A", (Var("p"),)), Size("N")))))
    \frac{A_{p}}{N}
    """
    if isinstance(node, Num):
        return _number(node.value).replace("inf", r"\infty")
    if isinstance(node, (Size, Var)):
        return _symbol(node.name)
    if isinstance(node, Access):
        name = node.tensor if len(node.tensor) == 1 else rf"\mathit{{{node.tensor}}}".replace("_", r"\_")
        below = ", ".join(latex_expression(i) for i in node.indices)
        return rf"{name}_{{{below}}}" if below else name
    if isinstance(node, Compare):
        out = latex_expression(node.args[0])
        for op, a in zip(node.ops, node.args[1:], strict=True):
            out += rf" {_LATEX_COMPARE[op]} {latex_expression(a)}"
        return out
    return _latex_apply(node)


def _latex_apply(node: Apply) -> str:
    args = [latex_expression(a) for a in node.args]
    if node.op == "/":
        return rf"\frac{{{args[0]}}}{{{args[1]}}}"
    if node.op == "//":
        return rf"\left\lfloor\frac{{{args[0]}}}{{{args[1]}}}\right\rfloor"
    if node.op == "**":
        return rf"{{{_latex_bracket(node.args[0], ATOM)}}}^{{{args[1]}}}"
    if node.op == "exp":
        return rf"e^{{{args[0]}}}"
    if node.op in STRENGTH:
        strength = STRENGTH[node.op]
        parts = [_latex_bracket(a, strength + (i > 0)) for i, a in enumerate(node.args)]
        sign = {"*": r" \, ", "%": r" \bmod ", "and": r" \land ", "or": r" \lor "}.get(
            node.op, f" {node.op} "
        )
        if node.op == "neg":
            return f"-{parts[0]}"
        return rf"\lnot {parts[0]}" if node.op == "not" else sign.join(parts)
    shape = SCALAR[node.op].latex
    if "{}" in shape:
        return shape.format(*args)
    head = shape or rf"\operatorname{{{node.op}}}"
    return rf"{head}\left({', '.join(args)}\right)"


def _latex_bracket(node: Expr, needed: int) -> str:
    own = strength(node)
    fraction = isinstance(node, Apply) and node.op == "/"
    inner = latex_expression(node)
    return inner if own >= needed or fraction else rf"\left({inner}\right)"


def _symbol(name: str) -> str:
    if name in _GREEK:
        return rf"\{name}"
    head = name.rstrip("0123456789")
    digits = name[len(head) :]
    shown = head if len(head) == 1 else rf"\mathit{{{head}}}".replace("_", r"\_")
    return rf"{shown}_{{{digits}}}" if digits else shown
