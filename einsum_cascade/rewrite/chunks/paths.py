"""A state at any step of a chunk: what is left of the states before the chunk, and of what was fed inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...expr import Access, Apply, Compare, Expr, Num, substitute, transform
from .block import Block, State
from .decay import Decay, decay
from .linear import Product
from .writer import Writer


@dataclass(frozen=True)
class Carried:
    """A state with which the chunk began, and what is left of it at `now`."""

    state: Access
    weight: Product


@dataclass(frozen=True)
class Fed:
    """What a step of the chunk added, and what is left at `now` of what was added at `then`.

    Attributes:
        added: in the coordinates of the recurrence.
        strict: whether only steps before `now` count, not `now` itself.
    """

    weight: Product
    added: Product
    strict: bool


@dataclass(frozen=True)
class Paths:
    """A state at `now` as a sum: over what was carried into the chunk, and over what was fed at its steps."""

    carried: tuple[Carried, ...]
    fed: tuple[Fed, ...]

    def changed(self, change: Callable[[Expr], Expr]) -> Paths:
        """Return the same with every expression changed."""
        return Paths(
            tuple(Carried(_access(change(c.state)), c.weight.map(change)) for c in self.carried),
            tuple(Fed(f.weight.map(change), f.added.map(change), f.strict) for f in self.fed),
        )

    def at_end(self, writer: Writer) -> Paths:
        """Return the same after the last step of the chunk."""
        last = {writer.ranks.now.name: writer.ranks.last}
        return self.changed(lambda node: transform(substitute(node, last), _tidied))


@dataclass
class Walker:
    """The paths of the states of a block, each written when it is first asked for.

    Attributes:
        positive: inputs that are known to be greater than 0.
        walked: the states that were asked for, in order.
    """

    block: Block
    writer: Writer
    positive: frozenset[str]
    walked: dict[str, None] = field(default_factory=dict)
    _known: dict[tuple[str, bool], Paths] = field(default_factory=dict)

    def paths(self, state: State, *, before: bool) -> Paths:
        """Return the paths of a state as a step finds it, or as the step leaves it."""
        key = (state.name, before)
        if key not in self._known:
            self.walked[state.name] = None
            self._known[key] = self._found(state, before=before)
        return self._known[key]

    def _found(self, state: State, *, before: bool) -> Paths:
        left = decay(self.writer, self.block, state, self.positive, before=before)
        carried = [Carried(state.at(self.writer.ranks.chunk), left.start)]
        fed: list[Fed] = []
        for term in state.added:
            source = next((f for f in term.above if isinstance(f, Access) and self.block.is_state(f)), None)
            if source is None:
                fed.append(Fed(left.between, term, before))
                continue
            through = self._through(state, left, term, source, before=before)
            carried += through.carried
            fed += through.fed
        return Paths(tuple(carried), tuple(fed))

    def _through(self, state: State, left: Decay, term: Product, source: Access, *, before: bool) -> Paths:
        """Return the paths of what another state passes on to this one at every step."""
        writer, ranks = self.writer, self.writer.ranks
        other = self.block.states[source.tensor]
        places = other.places(source)
        finds = self.block.is_before(source)
        inner = self.paths(other, before=finds).changed(lambda node: substitute(node, places))
        coefficient = term.without(source)
        axes = frozenset(state.axes)
        carried, fed = [], []
        then: dict[str, Expr] = {ranks.now.name: ranks.then}
        for c in inner.carried:
            weight = left.between.times(coefficient.map(lambda f: writer.at(f, ranks.then)))
            weight = weight.times(c.weight.map(lambda f: substitute(f, then)))
            keep = {ranks.chunk.name, ranks.now.name, *(axes & weight.variables)}
            summed = writer.write(
                writer.fresh(f"{state.name}H"), weight.value, keep, where=writer.order(strict=before)
            )
            carried.append(Carried(c.state, Product((summed,), negative=weight.negative)))
        for f in inner.fed:
            weight = left.between.map(lambda n: substitute(n, {ranks.then.name: ranks.amid}))
            weight = weight.times(coefficient.map(lambda n: writer.at(n, ranks.amid)))
            weight = weight.times(f.weight.map(lambda n: substitute(n, {ranks.now.name: ranks.amid})))
            keep = {ranks.chunk.name, ranks.now.name, ranks.then.name, *(axes & weight.variables)}
            lies = Compare(
                ("<" if f.strict else "<=", "<" if before else "<="), (ranks.then, ranks.amid, ranks.now)
            )
            summed = writer.write(writer.fresh(f"{state.name}C"), weight.value, keep, where=lies)
            weight = Product((summed,), negative=weight.negative)
            fed.append(Fed(weight, f.added, f.strict or before))
        return Paths(tuple(carried), tuple(fed))


def _tidied(node: Expr) -> Expr:
    """Return x for (x - 1) + 1."""
    if isinstance(node, Apply) and node.op == "+" and node.args[1] == Num(1):
        inner = node.args[0]
        if isinstance(inner, Apply) and inner.op == "-" and inner.args[1] == Num(1):
            return inner.args[0]
    return node


def _access(node: Expr) -> Access:
    assert isinstance(node, Access)
    return node
