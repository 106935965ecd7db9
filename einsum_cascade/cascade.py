"""A cascade: ranks, signatures, Einsums and iterate blocks; an object that exists has been checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .checks import check
from .declarations import Constant, Iterate, Rank, Signature, free_name
from .einsum import Einsum
from .errors import CascadeError, glimpse
from .expr import Apply, Size, Var, walk


@dataclass(frozen=True)
class Cascade:
    """One algorithm as a sequence of extended Einsums.

    Attributes:
        ranks: free and derived ranks, in order of declaration.
        constants: named constants.
        inputs: tensors that are given.
        outputs: tensors that are asked for.
        body: Einsums and iterate blocks, in order of execution.

    Raises:
        CascadeError: when the parts do not make a legal cascade; see checks.py for the rules.
    """

    name: str
    summary: str = ""
    source: str = ""
    ranks: tuple[Rank, ...] = ()
    constants: tuple[Constant, ...] = ()
    inputs: tuple[Signature, ...] = ()
    outputs: tuple[Signature, ...] = ()
    body: tuple[Einsum | Iterate, ...] = ()
    signatures: dict[str, Signature] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", _canonical(self.ranks, {c.name for c in self.constants}))
        object.__setattr__(self, "signatures", check(self))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.ranks, self.constants, self.inputs, self.outputs, self.body))

    @property
    def statements(self) -> Iterator[tuple[Einsum, str | None]]:
        """Every Einsum in order, with the variable of the iterate block it stands in, or None."""
        for item in self.body:
            if isinstance(item, Iterate):
                for einsum in item.einsums:
                    yield einsum, item.variable
            else:
                yield item, None

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """What others have worked out of it, each by a key of its own; it never changes, and no copy needs it."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # Another process has other hashes of the same names.
        return {name: value for name, value in self.__dict__.items() if name not in ("derived", "_hash")}

    @cached_property
    def states(self) -> frozenset[str]:
        """Tensors that carry a state from one generation of an iterate block to the next."""
        return frozenset(s.tensor for s in self.signatures.values() if s.state is not None)

    def is_initial(self, einsum: Einsum, block: str | None) -> bool:
        """Tell whether an Einsum only gives a state its first value."""
        return block is None and einsum.name in self.states

    @cached_property
    def einsums(self) -> tuple[Einsum, ...]:
        """Every Einsum but the first values of states, in order: what a machine has to do."""
        return tuple(e for e, block in self.statements if not self.is_initial(e, block))

    @cached_property
    def initial(self) -> tuple[Einsum, ...]:
        """The Einsums that give states their first values."""
        return tuple(e for e, block in self.statements if self.is_initial(e, block))

    def einsum(self, name: str) -> Einsum:
        """Return the (non-initial) Einsum that defines a tensor.

        Raises:
            KeyError: no Einsum defines it.
        """
        return self._defined[name][0]

    def block_of(self, name: str) -> str | None:
        """Return the variable of the iterate block that defines a tensor, or None."""
        return self._defined[name][1] if name in self._defined else None

    def defines(self, name: str) -> bool:
        """Tell whether a (non-initial) Einsum defines a tensor."""
        return name in self._defined

    @cached_property
    def _defined(self) -> dict[str, tuple[Einsum, str | None]]:
        """Each (non-initial) Einsum by its name, with the variable of its iterate block."""
        return {e.name: (e, block) for e, block in self.statements if not self.is_initial(e, block)}

    @cached_property
    def readers(self) -> dict[str, tuple[Einsum, ...]]:
        """Of each tensor that is read the (non-initial) Einsums that do, in order."""
        found: dict[str, list[Einsum]] = {}
        for einsum in self.einsums:
            for tensor in einsum.sources:
                found.setdefault(tensor, []).append(einsum)
        return {tensor: tuple(einsums) for tensor, einsums in found.items()}

    @cached_property
    def rank_names(self) -> tuple[str, ...]:
        """Names of all ranks, in order of declaration."""
        return tuple(r.name for r in self.ranks)

    @cached_property
    def free_ranks(self) -> tuple[str, ...]:
        """Names of the ranks whose sizes are given when the cascade is used."""
        return tuple(r.name for r in self.ranks if r.size is None)

    @cached_property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Ranks that are products of ranks, outermost first: `{"M": ("M1", "M0")}`."""
        names = {r.name for r in self.ranks}
        out = {}
        for rank in self.ranks:
            if isinstance(rank.size, Apply) and rank.size.op == "*":
                parts = [n for n in walk(rank.size) if not isinstance(n, Apply)]
                products = all(n.op == "*" for n in walk(rank.size) if isinstance(n, Apply))
                if products and all(isinstance(n, Size) and n.name in names for n in parts):
                    out[rank.name] = tuple(n.name for n in parts if isinstance(n, Size))
        return out

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Ranks that are another rank under a second name: `{"S0": "T0"}` for `rank S0 = T0`."""
        names = {r.name for r in self.ranks}
        return {r.name: r.size.name for r in self.ranks if isinstance(r.size, Size) and r.size.name in names}

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Of each rank the unsplit ranks that it is made of, outermost first; of an unsplit one itself."""
        splits = self.splits

        def parts_of(rank: str) -> tuple[str, ...]:
            return tuple(p for part in splits[rank] for p in parts_of(part)) if rank in splits else (rank,)

        return {rank: parts_of(rank) for rank in self.rank_names}

    @cached_property
    def wholes(self) -> dict[str, tuple[str, ...]]:
        """Of each unsplit rank the ranks that it is a part of, itself included: `{"M0": ("M0", "M")}`."""
        found: dict[str, list[str]] = {}
        for rank, parts in self.parts.items():
            for part in dict.fromkeys(parts):
                found.setdefault(part, []).append(rank)
        return {part: tuple(ranks) for part, ranks in found.items()}

    @cached_property
    def second_names(self) -> dict[str, tuple[str, ...]]:
        """Of each unsplit rank the aliases of a rank that it is a part of."""
        found: dict[str, list[str]] = {}
        for name, meant in self.aliases.items():
            for part in dict.fromkeys(self.parts[meant]):
                found.setdefault(part, []).append(name)
        return {part: tuple(names) for part, names in found.items()}

    @property
    def graph(self) -> Any:
        """The dependency graph: one node per tensor, an edge from each tensor read to the tensor defined.

        Returns:
            networkx.DiGraph; edges that carry a state between generations have `state=True`.
        """
        import networkx

        graph = networkx.DiGraph(name=self.name)
        graph.add_nodes_from((s.tensor for s in self.inputs), kind="input")
        for e in self.einsums:
            graph.add_node(e.name, kind="output" if e.name in {s.tensor for s in self.outputs} else "einsum")
        for e in self.einsums:
            for access in e.reads:
                state = access.tensor in self.states and self.reads_previous(access)
                graph.add_edge(access.tensor, e.name, state=state)
        return graph

    def reads_previous(self, access: Any) -> bool:
        """Tell whether an access reads a state as the generation before left it (`RM[m1, p]`)."""
        signature = self.signatures[access.tensor]
        return signature.state is not None and isinstance(access.indices[signature.state], Var)

    def __str__(self) -> str:
        from .printer import render

        return render(self)

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(str(self))}</pre>"


def _canonical(ranks: tuple[Rank, ...], constants: set[str]) -> tuple[Rank, ...]:
    """Return the ranks in canonical order: free ones, then each derived rank after the sizes it is made of.

    `rank M = M1 * M0` declares M1 and M0 too; whether they were also declared by hand makes no difference.
    """
    derived = {r.name for r in ranks if r.size is not None}
    parts: dict[str, list[Rank]] = {}
    for r in ranks:
        names = [n for n in walk(r.size) if isinstance(n, Size)] if r.size is not None else []
        for n in names:
            if (
                n.name not in derived
                and n.name not in constants
                and all(n.name != p.name for p in parts.get(r.name, ()))
            ):
                parts.setdefault(r.name, []).append(Rank(n.name, at=n.at))
    used = {p.name for group in parts.values() for p in group}
    out = [r for r in ranks if r.size is None and r.name not in used]
    placed: set[str] = set()
    for r in ranks:
        if r.size is not None:
            fresh = [p for p in parts.get(r.name, ()) if p.name not in placed]
            placed |= {p.name for p in fresh}
            out += [*fresh, r]
    return tuple(out)


def require(given: object) -> None:
    """Refuse what is no cascade: its name or text is what people pass first.

    Raises:
        CascadeError: something else than a `Cascade`.
    """
    if not isinstance(given, Cascade):
        raise CascadeError(
            f"expected a Cascade, found {glimpse(given)}",
            hint="zoo.load(name), load(file) and parse(text) give one",
        )


def fresh_name(cascade: Cascade, wanted: str, taken: Iterable[str] = ()) -> str:
    """Return a tensor name that nothing in the cascade has."""
    used = {*cascade.signatures, *cascade.rank_names, *(c.name for c in cascade.constants), *taken}
    return free_name(wanted, used)
