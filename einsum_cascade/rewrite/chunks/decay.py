"""What a gate leaves of a state from one step of a chunk to a later one."""

from __future__ import annotations

from dataclasses import dataclass

from ...cascade import Cascade
from ...expr import Access, Apply, Compare, Expr, Num, Var, substitute, variables
from ..elements import places_of
from .linear import Product, total
from .writer import Writer


@dataclass(frozen=True)
class Decay:
    """The product of a gate over the steps of a chunk, in the variables of the state.

    Attributes:
        start: what is left at `now` of the state with which the chunk began.
        between: what is left at `now` of what was added at `then`.
    """

    start: Product
    between: Product

    def at_end(self, writer: Writer) -> Decay:
        """Return the same after the last step of the chunk."""
        last = {writer.ranks.now.name: writer.ranks.last}
        return Decay(
            self.start.map(lambda f: substitute(f, last)), self.between.map(lambda f: substitute(f, last))
        )


def decay(writer: Writer, state: str, gate: Product, positive: frozenset[str], *, before: bool) -> Decay:
    """Return the decay of a state.

    A gate that is alike at every step becomes a power. One that cannot be 0 or negative becomes the exponential of a
    difference of sums of its logarithms: never more than 1 for a gate that is not, whatever the length. Any other is
    multiplied up step by step.

    Args:
        gate: the factors by which a step multiplies the state.
        positive: inputs that are known to be greater than 0.
        before: as a step finds the state, not as it leaves it.
    """
    steady, moving = gate.split(lambda f: writer.ranks.step.name not in variables(f))
    logs: list[Product] = []
    plain: list[tuple[Expr, bool]] = []
    for part, under in [(f, False) for f in moving.above] + [(f, True) for f in moving.below]:
        log = log_of(writer.cascade, part, positive)
        if log is None:
            plain.append((part, under))
        else:
            logs.append(Product((log,), negative=under))
    if moving.negative:
        steady = steady.times(Product((Num(-1),)))
    start, between = Product(), Product()
    for s, b in (
        _powers(writer, steady, before=before),
        _exponentials(writer, state, logs, before=before),
        _products(writer, state, plain, before=before),
    ):
        start, between = start.times(s), between.times(b)
    return Decay(start, between)


def log_of(cascade: Cascade, node: Expr, positive: frozenset[str]) -> Expr | None:
    """Return the logarithm of a value, or None where it may be 0 or negative."""
    if isinstance(node, Num):
        return Apply("log", (node,)) if node.value > 0 else None
    if isinstance(node, Access):
        if node.tensor in positive:
            return Apply("log", (node,))
        return _log_of_defined(cascade, node, positive)
    if not isinstance(node, Apply):
        return None
    if node.op == "exp":
        return node.args[0]
    if node.op == "sigmoid":
        return _log_sigmoid(node.args[0])
    if node.op == "-" and node.args[0] == Num(1):
        other = node.args[1]
        is_gate = isinstance(other, Apply) and other.op == "sigmoid"
        # 1 - sigmoid(x) = sigmoid(-x)
        return _log_sigmoid(Apply("neg", other.args)) if is_gate and isinstance(other, Apply) else None
    if node.op not in ("*", "/", "+", "sqrt", "**"):
        return None
    logs = [log_of(cascade, a, positive) for a in node.args[: 1 if node.op == "**" else 2]]
    known = [log for log in logs if log is not None]
    if len(known) < len(logs):
        return None
    if node.op in ("*", "/"):
        return Apply("+" if node.op == "*" else "-", (known[0], known[1]))
    return Apply("*", (node.args[1], known[0])) if node.op == "**" else Apply("log", (node,))


def _log_sigmoid(argument: Expr) -> Expr:
    inner = argument.args[0] if isinstance(argument, Apply) and argument.op == "neg" else None
    turned = inner if inner is not None else Apply("neg", (argument,))
    return Apply("neg", (Apply("softplus", (turned,)),))


def _log_of_defined(cascade: Cascade, access: Access, positive: frozenset[str]) -> Expr | None:
    """Return the logarithm of a tensor that a map makes of values that are greater than 0."""
    if not cascade.defines(access.tensor) or access.tensor in cascade.states:
        return None
    einsum = cascade.einsum(access.tensor)
    plain = all(isinstance(i, Var) for i in einsum.target.indices)
    if einsum.all_reductions or einsum.where is not None or not plain:
        return None
    if any(a.tensor in cascade.states for a in einsum.reads):
        return None
    return log_of(cascade, substitute(einsum.value, places_of(einsum, access)), positive)


def _powers(writer: Writer, steady: Product, *, before: bool) -> tuple[Product, Product]:
    """Return the powers of what every step multiplies by: of now + 1 steps, or of now - then."""
    if not steady.above and not steady.below:
        return Product(), Product()
    now, then = writer.ranks.now, writer.ranks.then
    fewer = Num(1)
    start: Expr = now if before else Apply("+", (now, fewer))
    apart: Expr = Apply("-", (now, then))
    apart = Apply("-", (apart, fewer)) if before else apart
    return steady.map(lambda f: _power(f, start)), steady.map(lambda f: _power(f, apart))


def _power(base: Expr, count: Expr) -> Expr:
    if isinstance(base, Apply) and base.op == "exp":
        return Apply("exp", (Apply("*", (base.args[0], count)),))
    return Apply("**", (base, count))


def _exponentials(
    writer: Writer, state: str, logs: list[Product], *, before: bool
) -> tuple[Product, Product]:
    """Return the exponentials of differences of the sums of logarithms."""
    if not logs:
        return Product(), Product()
    up_to_now = _summed(writer, state, logs, before=before)
    up_to_then = _summed(writer, state, logs, before=False)
    then = {writer.ranks.now.name: writer.ranks.then}
    apart = Apply("-", (up_to_now, substitute(up_to_then, then)))
    return Product((Apply("exp", (up_to_now,)),)), Product((Apply("exp", (apart,)),))


def _summed(writer: Writer, state: str, logs: list[Product], *, before: bool) -> Access:
    """Return the sum of the logarithms over the steps up to `now`, without `now` itself where only before it."""
    value = writer.at(total(logs), writer.ranks.then)
    keep = {writer.ranks.chunk.name, writer.ranks.now.name, *variables(value)} - {writer.ranks.then.name}
    return writer.once(
        f"{state}L{'B' if before else ''}", value, keep, where=writer.order(strict=before)
    )


def _products(
    writer: Writer, state: str, plain: list[tuple[Expr, bool]], *, before: bool
) -> tuple[Product, Product]:
    """Return the products of gates that may be 0, over the steps that lie between."""
    if not plain:
        return Product(), Product()
    ranks = writer.ranks
    gate = Product(tuple(f for f, under in plain if not under), tuple(f for f, under in plain if under)).value
    others = set(variables(gate)) - {ranks.step.name}
    up_to = writer.at(gate, ranks.then)
    start = writer.once(
        f"{state}P{'B' if before else ''}",
        up_to,
        {ranks.chunk.name, ranks.now.name, *others},
        where=writer.order(strict=before),
        op="prod",
    )
    lies = Compare(("<", "<" if before else "<="), (ranks.then, ranks.amid, ranks.now))
    between = writer.once(
        f"{state}G{'B' if before else ''}",
        writer.at(gate, ranks.amid),
        {ranks.chunk.name, ranks.then.name, ranks.now.name, *others},
        where=lies,
        op="prod",
    )
    return Product((start,)), Product((between,))
