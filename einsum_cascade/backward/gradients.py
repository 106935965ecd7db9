"""The gradients of a cascade's outputs by its inputs, written as a cascade, and checked."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..cascade import Cascade, require
from ..declarations import Iterate
from ..errors import CascadeError, nearest
from ..rewrite.reduction import Step, told_as_html
from .assemble import assembled, kept, with_plain_outputs, with_saved
from .constant import cancelling
from .generations import with_generations
from .loop import Loop
from .names import Names
from .ready import (
    active_tensors,
    read_as_values,
    with_choices,
    with_divisions_last,
    with_factors_apart,
    with_single_reductions,
)
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
            "steps": [s.as_json() for s in self.steps],
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
    require(cascade)
    inputs = [s.tensor for s in cascade.inputs]
    for name in wrt or ():
        if name not in inputs:
            raise CascadeError(f"{cascade.name} has no input {name}", hint=nearest(name, inputs))
    wanted = [t for t in inputs if wrt is None or t in wrt]
    later, deferred = with_divisions_last(cascade)
    chosen = with_choices(later)
    copied = with_generations(chosen, active_tensors(chosen, wanted))
    single = with_single_reductions(copied, active_tensors(copied, wanted))
    ready = with_factors_apart(single, active_tensors(single, wanted))
    active = active_tensors(ready, wanted)
    stopped = frozenset(cancelling(ready, active))
    names = Names.of(ready)
    given = {s.tensor: names.free(f"D{s.tensor}") for s in ready.outputs}
    backward = Backward(ready, active - stopped, given, names)
    found = _walked_back(backward, wanted)
    if not found:
        raise CascadeError(f"no output of {cascade.name} moves with {' or '.join(wanted) or 'any input'}")
    made, found = with_plain_outputs(assembled(ready, backward, given, found), found, ready)
    moving = read_as_values(ready, active)
    _confirm(cascade, made, given, {t: found.get(t, "") for t in wanted if t in moving})
    whole = with_saved(made, kept(ready, made, saved))
    keeping = tuple(s.tensor for s in whole.inputs if s.tensor in made.signatures and made.defines(s.tensor))
    steps = [
        Step("cancel", t, "the outputs do not change with it: what comes back through it cancels")
        for t in ready.signatures
        if t in stopped
    ]
    none = {t: "no output moves with it" for t in wanted if t not in found}
    return Gradients(whole, found, given, keeping, none, (*deferred, *steps))


def _walked_back(backward: Backward, wanted: Sequence[str]) -> dict[str, str]:
    """Hand gradients back from the outputs to the inputs; return of each input the name of its own, if any comes."""
    cascade = backward.cascade
    for item in reversed(cascade.body):
        if isinstance(item, Iterate):
            Loop(backward, item).run()
        elif item.name in cascade.states:
            backward.hand_back_first(item)
        elif (item.name, "") in backward.parts and item.name in backward.active:
            backward.hand_back(item, backward.total_of(item.name).access)
    read = [t for t in wanted if backward.parts.get((t, ""))]
    return {t: backward.total_of(t, must_name=True).access.tensor for t in read}


def _confirm(cascade: Cascade, made: Cascade, given: dict[str, str], wrt: dict[str, str]) -> None:
    """Refuse a gradient that is not that of a cascade; `hold` says how that is told.

    Raises:
        CascadeError: it is not, or no inputs were found at which it can be told.
    """
    told = hold(cascade, made, given, wrt)
    if told is None:
        raise CascadeError(
            f"the gradients of {cascade.name} could not be confirmed at any sizes that were tried"
        )
    if not told:
        raise CascadeError(f"the gradients of {cascade.name} do not hold against differences of its outputs")
