"""What a gate leaves of a state from one step of a chunk to a later one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...einsum import is_map, places_of
from ...expr import Access, Apply, Compare, Expr, Num, accesses, substitute, variables
from .block import Block, State
from .linear import Product, summands, total
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


def decay(writer: Writer, block: Block, state: State, positive: frozenset[str], *, before: bool) -> Decay:
    """Return the decay of a state.

    A gate that is alike at every step becomes a power. One that cannot be 0 or negative becomes the exponential of a
    difference of sums of its logarithms: never more than 1 for a gate that is not, whatever the length; where the
    logarithm is by how much another state moves, the sum is that state. Any other is multiplied up step by step.

    Args:
        positive: inputs that are known to be greater than 0.
        before: as a step finds the state, not as it leaves it.
    """
    steady, moving = state.gate.split(lambda f: writer.ranks.step.name not in variables(f))
    logs: list[Product] = []
    plain: list[tuple[Expr, bool]] = []
    for part, under in [(f, False) for f in moving.above] + [(f, True) for f in moving.below]:
        log = log_of(block, part, positive)
        if log is None:
            plain.append((part, under))
        else:
            logs += [replace(s, negative=s.negative != under) for s in summands(Product((log,)))]
    if moving.negative:
        steady = steady.times(Product((Apply("neg", (Num(1),)),)))
    start, between = Product(), Product()
    for s, b in (
        _powers(writer, steady, before=before),
        _exponentials(writer, block, state.name, logs, before=before),
        _products(writer, state.name, plain, before=before),
    ):
        start, between = start.times(s), between.times(b)
    return Decay(start, between)


@dataclass(frozen=True)
class _Move:
    """A logarithm S[t] - S[t+1] of copies of one state, or S[t+1] - S[t] where it rises."""

    found: Access
    left: Access
    rises: bool


def _telescoped(block: Block, logs: list[Product]) -> tuple[list[_Move], list[Product]]:
    """Return the logarithms that are by how much a state moves in a step, and the others."""
    moves: list[_Move] = []
    rest = list(logs)
    copies = [p for p in logs if _copied(block, p)]
    for mine in copies:
        for other in copies:
            if mine not in rest or other not in rest:
                continue
            (found,), (left,) = mine.above, other.above
            assert isinstance(found, Access) and isinstance(left, Access)
            a, b = block.copies[found.tensor], block.copies[left.tensor]
            pair = a.tensor == b.tensor and block.is_before(a) and not block.is_before(b)
            if pair and found.indices == left.indices and mine.negative != other.negative:
                moves.append(_Move(found, left, mine.negative))
                rest.remove(mine)
                rest.remove(other)
    return moves, rest


def _copied(block: Block, product: Product) -> bool:
    if len(product.above) != 1 or product.below:
        return False
    (factor,) = product.above
    return isinstance(factor, Access) and factor.tensor in block.copies


def log_of(block: Block, node: Expr, positive: frozenset[str]) -> Expr | None:
    """Return the logarithm of a value, or None where it may be 0 or negative."""
    if isinstance(node, Num):
        return Apply("log", (node,)) if node.value > 0 else None
    if isinstance(node, Access):
        if node.tensor in positive:
            return Apply("log", (node,))
        return _log_of_defined(block, node, positive)
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
    logs = [log_of(block, a, positive) for a in node.args[: 1 if node.op == "**" else 2]]
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


def _log_of_defined(block: Block, access: Access, positive: frozenset[str]) -> Expr | None:
    """Return the logarithm of a tensor that a map makes of values that are greater than 0."""
    cascade = block.cascade
    known = cascade.defines(access.tensor) and cascade.block_of(access.tensor) is None
    einsum = block.others.get(access.tensor) or (cascade.einsum(access.tensor) if known else None)
    if einsum is None or access.tensor in cascade.states or block.reads_state(einsum):
        return None
    if not is_map(einsum):
        return None
    return log_of(block, substitute(einsum.value, places_of(einsum, access)), positive)


def kind_of(block: Block, state: State, positive: frozenset[str]) -> str:
    """Return how a gate is taken over several steps, in words."""
    step = block.step
    moving = [f for f in (*state.gate.above, *state.gate.below) if step in variables(f)]
    if state.gate.is_one and not state.gate.negative:
        return "nothing decays"
    if not moving:
        return "its gate is alike at every step: a power of it"
    plain = [f for f in moving if log_of(block, f, positive) is None]
    if not plain:
        return "its gate is positive: the exponential of a difference of sums of logarithms"
    names = sorted({a.tensor for f in plain for a in accesses(f)})
    return (
        f"its gate may be 0 or negative: products of it between every two steps; if {', '.join(names)} cannot be, "
        "say that it is positive, or write it as exp(...)"
    )


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
    writer: Writer, block: Block, state: str, logs: list[Product], *, before: bool
) -> tuple[Product, Product]:
    """Return the exponentials of differences of the sums of logarithms: one for all, for single ones may overflow."""
    if not logs:
        return Product(), Product()
    moves, rest = _telescoped(block, logs)
    up_to_now = _risen(writer, state, moves, rest, before=before)
    then: dict[str, Expr] = {writer.ranks.now.name: writer.ranks.then}
    up_to_then = [
        p.map(lambda f: substitute(f, then)).negated for p in _risen(writer, state, moves, rest, before=False)
    ]
    at_start = [_first(writer, block, m) for m in moves]
    return (
        Product((Apply("exp", (total(up_to_now + at_start),)),)),
        Product((Apply("exp", (total(up_to_now + up_to_then),)),)),
    )


def _risen(
    writer: Writer, state: str, moves: list[_Move], rest: list[Product], *, before: bool
) -> list[Product]:
    """Return the sum of logarithms up to `now`, but for what the states by which it moves were at the start."""
    parts = [Product((summed_logs(writer, state, rest, before=before),))] if rest else []
    return parts + [Product((writer.at(m.found if before else m.left),), negative=not m.rises) for m in moves]


def _first(writer: Writer, block: Block, move: _Move) -> Product:
    """Return what a state by which logarithms move was at the start of the chunk, as a part of their sum."""
    access = block.copies[move.left.tensor]
    state = block.states[access.tensor]
    places = places_of(block.others[move.left.tensor], move.left)
    first = substitute(substitute(state.at(writer.ranks.chunk), state.places(access)), places)
    return Product((first,), negative=move.rises)


def summed_logs(writer: Writer, state: str, logs: list[Product], *, before: bool) -> Access:
    """Return the sum of the logarithms over the steps up to `now`, without `now` itself where only before it."""
    value = writer.at(total(logs), writer.ranks.then)
    keep = {writer.ranks.chunk.name, writer.ranks.now.name, *variables(value)} - {writer.ranks.then.name}
    return writer.once(f"{state}L{'B' if before else ''}", value, keep, where=writer.order(strict=before))


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
