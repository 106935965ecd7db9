"""The gradients of a cascade's outputs by its inputs, written as a cascade, and checked."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..analysis.needed import without_unused
from ..cascade import Cascade
from ..declarations import Iterate, Signature, free_name
from ..einsum import Einsum
from ..errors import CascadeError, nearest
from ..expr import Access, Expr, Size, transform, walk
from ..rewrite.reduction import Step, told_as_html
from ..rolling.plain import in_every
from .constant import cancelling
from .ready import active_tensors, read_as_values, with_divisions_last, with_single_reductions
from .trials import hold
from .walk import Backward


@dataclass(frozen=True)
class Gradients:
    """A cascade that computes gradients.

    Attributes:
        wrt: of each input the output of `cascade` that holds the gradient to it.
        given: of each output the input of `cascade` that holds the gradient of it.
        saved: tensors that are inputs of `cascade`, for the forward pass has kept them.
        none: inputs that no gradient comes back to, with the reason.
        steps: what was done about which tensor, and why it holds.
    """

    cascade: Cascade
    wrt: dict[str, str]
    given: dict[str, str]
    saved: tuple[str, ...]
    none: dict[str, str]
    steps: tuple[Step, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        return {
            "wrt": self.wrt,
            "given": self.given,
            "saved": list(self.saved),
            "none": self.none,
            "steps": [{"rule": s.rule, "einsum": s.einsum, "why": s.why} for s in self.steps],
            "cascade": str(self.cascade),
        }

    def __str__(self) -> str:
        lines = [f"{d}: gradient to {t}" for t, d in self.wrt.items()]
        lines += [f"  {s.rule} {s.einsum}: {s.why}" for s in self.steps]
        return "\n".join([*lines, "", str(self.cascade)])

    def _repr_html_(self) -> str:
        return told_as_html(
            f"gradients of {html.escape(self.cascade.name)}",
            [(s.rule, s.einsum, s.why) for s in self.steps],
            self.cascade,
        )


def gradients(
    cascade: Cascade, wrt: Collection[str] | None = None, *, saved: Collection[str] | str = ()
) -> Gradients:
    """Return the cascade that a backward pass computes.

    Its inputs are those of the cascade and, for each output O, the gradient DO of it; its outputs are the gradients to
    the inputs. What the backward pass needs of the forward pass it computes again, but for what is saved.

    Args:
        wrt: inputs to which gradients are asked for; every input that moves an output unless given.
        saved: tensors that the forward pass keeps, which then are inputs too; "small" for all that are no larger than
            an input or an output, as kernels of attention do.

    Raises:
        CascadeError: an unknown name, nothing that can be differentiated, or a gradient that does not hold against
            differences of the outputs.

    >>> from einsum_cascade import zoo
    >>> found = gradients(zoo.load("gemm"))
    >>> found.wrt
    {'A': 'DA', 'B': 'DB'}
    """
    inputs = [s.tensor for s in cascade.inputs]
    for name in wrt or ():
        if name not in inputs:
            raise CascadeError(f"{cascade.name} has no input {name}", hint=nearest(name, inputs))
    wanted = [t for t in inputs if wrt is None or t in wrt]
    later, deferred = with_divisions_last(cascade)
    ready = with_single_reductions(later, active_tensors(later, wanted))
    active = active_tensors(ready, wanted)
    stopped = frozenset(cancelling(ready, active))
    taken = {*ready.signatures, *ready.rank_names, *(c.name for c in ready.constants)}
    given: dict[str, str] = {}
    for s in ready.outputs:
        given[s.tensor] = free_name(f"D{s.tensor}", {*taken, *given.values()})
    backward = Backward(ready, active, stopped, given)
    found = backward.run(wanted)
    if not found:
        raise CascadeError(f"no output of {cascade.name} moves with {' or '.join(wanted) or 'any input'}")
    made = _assembled(ready, backward, given, found)
    made, found = _with_plain_outputs(made, found)
    moving = read_as_values(ready, active)
    told = hold(cascade, made, given, {t: found.get(t, "") for t in wanted if t in moving})
    if not told:
        raise CascadeError(
            f"the gradients of {cascade.name} could not be confirmed"
            if told is None
            else f"the gradients of {cascade.name} do not hold against differences of its outputs"
        )
    kept = _kept(later, made, saved)
    steps = [
        Step("cancel", t, "the outputs do not change with it: what comes back through it cancels")
        for t in ready.signatures
        if t in stopped
    ]
    none = {t: "no output moves with it" for t in wanted if t not in found}
    return Gradients(_with_saved(made, kept), found, given, kept, none, (*deferred, *steps))


def _assembled(cascade: Cascade, backward: Backward, given: dict[str, str], found: dict[str, str]) -> Cascade:
    """Return the forward pass and the backward pass as one cascade, without what no gradient needs."""
    body: list[Einsum | Iterate] = []
    for item in cascade.body:
        if isinstance(item, Iterate):
            inside = tuple(e for one in item.einsums for e in (one, *backward.beside.get(one.name, ())))
            body.append(replace(item, einsums=inside))
        else:
            body += (item, *(() if item.name in cascade.states else backward.beside.get(item.name, ())))
    seeds = [Signature(given[s.tensor], s.ranks) for s in cascade.outputs]
    signatures = {s.tensor: s for s in cascade.inputs}
    whole = Cascade(
        name=f"{cascade.name}_gradients",
        summary=f"Gradients of {cascade.name}.",
        source=cascade.source,
        ranks=(*cascade.ranks, *backward.names.ranks),
        constants=cascade.constants,
        inputs=(*cascade.inputs, *seeds),
        outputs=tuple(Signature(d, _ranks(backward, t, signatures[t].ranks)) for t, d in found.items()),
        body=(*body, *backward.after),
    )
    return _tidied(without_unused(whole))


def _with_plain_outputs(cascade: Cascade, found: dict[str, str]) -> tuple[Cascade, dict[str, str]]:
    """Return a cascade whose gradient to Q goes by the name DQ, where something made on the way has taken it."""
    inputs = {s.tensor for s in cascade.inputs}
    names: dict[str, str] = {}
    for tensor, name in found.items():
        wanted = f"D{tensor}"
        if (
            name != wanted
            and wanted not in inputs
            and wanted in cascade.signatures
            and cascade.defines(wanted)
        ):
            names |= {name: wanted, wanted: name}

    def renamed(node: Expr) -> Expr:
        return replace(node, tensor=names.get(node.tensor, node.tensor)) if isinstance(node, Access) else node

    if not names:
        return cascade, found
    outputs = tuple(replace(s, tensor=names.get(s.tensor, s.tensor)) for s in cascade.outputs)
    body = in_every(cascade.body, lambda node: transform(node, renamed))
    return replace(cascade, outputs=outputs, body=body), {t: names.get(n, n) for t, n in found.items()}


def _ranks(backward: Backward, tensor: str, ranks: tuple[str, ...]) -> tuple[str, ...]:
    from ..declarations import rank_of

    return tuple(rank_of(v) for v in backward.own(tensor))


def _tidied(cascade: Cascade) -> Cascade:
    """Return a cascade without inputs that nothing reads, and without ranks that nothing names."""
    read = {t for e, _ in cascade.statements for t in e.sources}
    inputs = tuple(s for s in cascade.inputs if s.tensor in read)
    named = {r for s in (*inputs, *cascade.outputs) for r in s.ranks}
    roots = [e for e, _ in cascade.statements]
    for e in roots:
        named |= {v[0].upper() + v[1:] for v in e.variables}
        named |= {
            n.name
            for node in (e.target, e.value, e.where)
            if node is not None
            for n in walk(node)
            if isinstance(n, Size)
        }
        named |= {r.into[0].upper() + r.into[1:] for r in e.reductions if r.into}
    constants = {c.name: c.value for c in cascade.constants}
    sizes = {r.name: r.size for r in cascade.ranks if r.size is not None}
    while True:
        more = {
            n.name
            for name in named
            for v in (constants.get(name), sizes.get(name))
            if v is not None
            for n in walk(v)
            if isinstance(n, Size)
        }
        # A split keeps the rank that it splits: sizes may be given by either.
        more |= {w for w, parts in cascade.splits.items() if set(parts) <= named}
        if more <= named:
            break
        named |= more
    return replace(
        cascade,
        inputs=inputs,
        ranks=tuple(r for r in cascade.ranks if r.name in named),
        constants=tuple(c for c in cascade.constants if c.name in named),
    )


def _kept(cascade: Cascade, made: Cascade, saved: Collection[str] | str) -> tuple[str, ...]:
    """Return the tensors of the forward pass that are saved, in order."""
    mine = [n for n in made.signatures if made.defines(n) and cascade.defines(n) and n not in made.states]
    if saved == "small":
        shapes = [set(_parts(cascade, s.ranks)) for s in (*cascade.inputs, *cascade.outputs)]
        return tuple(
            n
            for n in mine
            if any(set(_parts(cascade, cascade.signatures[n].ranks)) <= shape for shape in shapes)
        )
    names = [saved] if isinstance(saved, str) else list(saved)
    for name in names:
        if name in cascade.states:
            raise CascadeError(f"{name} is a state and cannot be saved; save what is made of it")
        if not cascade.defines(name):
            defined = [e.name for e in cascade.einsums]
            raise CascadeError(f"{cascade.name} computes no {name}", hint=nearest(name, defined))
    return tuple(n for n in mine if n in names)


def _parts(cascade: Cascade, ranks: Sequence[str]) -> list[str]:
    return [cascade.aliases.get(p, p) for r in ranks for p in cascade.parts[r]]


def _with_saved(made: Cascade, saved: tuple[str, ...]) -> Cascade:
    """Return a cascade to which some of its tensors are inputs."""
    if not saved:
        return made
    body: list[Einsum | Iterate] = []
    for item in made.body:
        if isinstance(item, Iterate):
            left = tuple(e for e in item.einsums if e.name not in saved)
            if left:
                body.append(replace(item, einsums=left))
        elif item.name not in saved:
            body.append(item)
    inputs = (*made.inputs, *(Signature(n, made.signatures[n].ranks) for n in saved))
    return _tidied(without_unused(replace(made, inputs=inputs, body=tuple(body))))
