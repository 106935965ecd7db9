"""A state that keeps the largest or smallest so far: at any step of a chunk, and at its end."""

from __future__ import annotations

from ...einsum import Einsum
from ...expr import Access, Apply, Expr, Num, substitute, variables
from .block import Block, State
from .decay import summed_logs
from .linear import Product
from .writer import Writer


def extreme_at(writer: Writer, state: State, *, before: bool) -> Expr:
    """Return an extreme at `now`: of what was carried into the chunk and of what its steps up to `now` bring.

    What the steps add to it is summed, as the logarithms of a gate are: in (max, +) a gate is an addend.

    Args:
        before: as a step finds the state, not as it leaves it.
    """
    ranks = writer.ranks
    carried: Expr = state.at(ranks.chunk)
    shift = [] if state.gate == Product() else [state.gate]
    candidates: list[Expr] = []
    for term in state.added:
        value = writer.at(term.value, ranks.then)
        if term.negative:
            value = Apply("neg", (value,))
        if not isinstance(value, Access):
            value = writer.one(f"{state.name}B", Product((value,)))
        if shift:
            up_to_now = summed_logs(writer, state.name, shift, before=before)
            up_to_then = substitute(
                summed_logs(writer, state.name, shift, before=False), {ranks.now.name: ranks.then}
            )
            value = Apply("+", (value, Apply("-", (up_to_now, up_to_then))))
        keep = {ranks.chunk.name, ranks.now.name, *state.axes}
        candidates.append(
            writer.once(
                f"{state.name}T{'B' if before else ''}{len(candidates) or ''}",
                value,
                keep & set(variables(value)) | {ranks.chunk.name, ranks.now.name},
                where=writer.order(strict=before),
                op=state.op,
            )
        )
    if shift:
        carried = Apply("+", (carried, summed_logs(writer, state.name, shift, before=before)))
    return Apply(state.op, (carried, *candidates))


def copied_extreme(writer: Writer, block: Block, einsum: Einsum) -> None:
    """Write the copy of an extreme at every step of a chunk."""
    access = block.copies[einsum.name]
    state = block.states[access.tensor]
    value = substitute(extreme_at(writer, state, before=block.is_before(access)), state.places(access))
    target = writer.at(einsum.target)
    assert isinstance(target, Access)
    writer.einsums.append(Einsum(target, value))


def updated_extreme(writer: Writer, state: State) -> None:
    """Write an extreme at the end of a chunk."""
    ranks = writer.ranks
    value = substitute(extreme_at(writer, state, before=False), {ranks.now.name: ranks.last})
    writer.einsums.append(Einsum(state.at(Apply("+", (ranks.chunk, Num(1)))), value))
