"""Which Einsums may run together tile by tile, and over which ranks: what every automatic mapping starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, rank_of, variable_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.expr import Access, Var


@dataclass(frozen=True, slots=True)
class Group:
    """Einsums that share outer loops, so that what passes between them stays on chip.

    Attributes:
        einsums: in order of execution.
        fused: ranks of the shared outer loops, outermost first; every Einsum has them all.
        iterated: the rank of an iterate block inside, or the empty string; its loop stands inside the fused ones.
    """

    einsums: tuple[Einsum, ...]
    fused: tuple[str, ...]
    iterated: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Tensors that the group defines."""
        return frozenset(e.name for e in self.einsums)


def units(cascade: Cascade) -> tuple[tuple[Einsum, ...], ...]:
    """Return the least groups: an Einsum, or an iterate block with everything up to the last reader of its states."""
    out: list[tuple[Einsum, ...]] = []
    open_states: set[str] = set()
    for item in cascade.body:
        if isinstance(item, Iterate):
            own = {e.name for e in item.einsums} & cascade.states
            if open_states & _read(item.einsums):
                out[-1] = (*out[-1], *item.einsums)
            else:
                out.append(item.einsums)
            open_states |= own
        elif not cascade.is_initial(item, None):
            out.append((item,))
    return _with_readers(cascade, out)


def _with_readers(cascade: Cascade, found: Sequence[tuple[Einsum, ...]]) -> tuple[tuple[Einsum, ...], ...]:
    """Join every unit to the last one before it that leaves a state which the unit reads."""
    out: list[tuple[Einsum, ...]] = []
    for unit in found:
        wanted = _read(unit) & cascade.states
        at = next((i for i, u in enumerate(out) if wanted & {e.name for e in u}), None)
        if at is None:
            out.append(unit)
        else:
            joined = tuple(e for u in (*out[at:], unit) for e in u)
            out[at:] = [joined]
    return tuple(out)


def _read(einsums: Iterable[Einsum]) -> set[str]:
    return {a.tensor for e in einsums for a in e.reads}


def group(cascade: Cascade, einsums: Sequence[Einsum]) -> Group:
    """Return a group with all the ranks over which its Einsums may be fused.

    A rank may be fused when every Einsum of the group keeps it in its result (none reduces over it), and every tensor
    that passes between them is read at the coordinate at which it was written.
    """
    iterated = _iterated(cascade, einsums)
    shared = [
        v
        for v in einsums[0].output_variables
        if all(v in e.output_variables for e in einsums) and v != variable_of(iterated or "_")
    ]
    fused = [v for v in shared if _aligned(v, einsums)]
    return Group(tuple(einsums), tuple(rank_of(v) for v in fused), iterated)


def _iterated(cascade: Cascade, einsums: Iterable[Einsum]) -> str:
    blocks = {cascade.block_of(e.name) for e in einsums} - {None}
    return rank_of(str(blocks.pop())) if len(blocks) == 1 else ""


def _aligned(variable: str, einsums: Sequence[Einsum]) -> bool:
    targets = {e.name: e.target for e in einsums}
    for e in einsums:
        for access in e.reads:
            if access.tensor in targets and not _same_place(variable, targets[access.tensor], access):
                return False
    return True


def _same_place(variable: str, written: Access, read: Access) -> bool:
    own = Var(variable)
    return all(
        (w == own) == (r == own) and (w == own or variable not in _names(w, r))
        for w, r in zip(written.indices, read.indices, strict=True)
    )


def _names(*indices: object) -> set[str]:
    from einsum_cascade.expr import variables

    return {v for i in indices for v in variables(i)}  # type: ignore[arg-type]
