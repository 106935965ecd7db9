"""The rules of a legal cascade, each refused with its place, what was found and what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .declarations import Signature, rank_of
from .einsum import Einsum, Reduction
from .errors import CascadeError, nearest
from .expr import Access, Apply, Compare, Expr, Num, Size, Var, is_logical, variables, walk
from .ops import INDEX_OPS, REDUCTION, SCALAR

# Sizes are worked out by recursion; nobody derives a rank through so many others.
MAX_STEPS = 50

if TYPE_CHECKING:
    from .cascade import Cascade


def check(cascade: Cascade) -> dict[str, Signature]:
    """Return the signature of every tensor of a legal cascade.

    Raises:
        CascadeError: the first rule that is broken.
    """
    _check_declarations(cascade)
    scope = _Scope(cascade)
    for einsum, block in cascade.statements:
        scope.add(einsum, block)
    scope.finish()
    return scope.signatures


def _check_declarations(cascade: Cascade) -> None:
    """Check what stands above the Einsums.

    A tensor may have the name of a rank, as the index tensor of a selection does (`J[p, j] = ... :: topk(m -> j)`): one
    is written with brackets, the other without. A constant is a number under a name of its own, so no tensor has it.
    """
    seen: dict[str, str] = {}
    named = [("rank", r.name, r.at) for r in cascade.ranks]
    named += [("constant", c.name, c.at) for c in cascade.constants]
    named += [("tensor", s.tensor, s.at) for s in cascade.inputs]
    for kind, name, at in named:
        if name in seen and (kind, seen[name]) != ("tensor", "rank"):
            raise CascadeError(f"'{name}' is declared twice: as {seen[name]} and as {kind}", at=at)
        seen[name] = kind
    asked: set[str] = set()
    for s in cascade.outputs:
        if s.tensor in asked:
            raise CascadeError(f"output {s.tensor} is named twice", at=s.at)
        asked.add(s.tensor)
    sizes = {r.name for r in cascade.ranks} | {c.name for c in cascade.constants}
    ranks = {r.name for r in cascade.ranks}
    for s in (*cascade.inputs, *cascade.outputs):
        for rank in s.ranks:
            if rank not in ranks:
                raise CascadeError(
                    f"tensor {s.tensor} has the unknown rank {rank}",
                    at=s.at,
                    hint=nearest(rank, (r.name for r in cascade.ranks)),
                )
    defined = {r.name: r.size for r in cascade.ranks if r.size is not None}
    defined |= {c.name: c.value for c in cascade.constants}
    for name, value in defined.items():
        for node in walk(value):
            if isinstance(node, (Access, Var, Compare)):
                raise CascadeError(f"the size {name} may use numbers and sizes only", at=node.at)
            if isinstance(node, Size) and node.name not in sizes:
                raise CascadeError(f"unknown size {node.name}", at=node.at, hint=nearest(node.name, sizes))
            _check_call(node)
    _check_acyclic(defined)


def _check_acyclic(defined: dict[str, Expr]) -> None:
    steps: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise CascadeError(f"sizes depend on each other in a circle: {circle}", at=defined[name].at)
        if name not in steps and name in defined:
            inner = [n.name for n in walk(defined[name]) if isinstance(n, Size)]
            deepest = 0 if len(path) > MAX_STEPS else max((visit(n, (*path, name)) for n in inner), default=0)
            if len(path) > MAX_STEPS or deepest >= MAX_STEPS:
                message = f"the size {name} follows from others through more than {MAX_STEPS} steps"
                raise CascadeError(message, at=defined[name].at)
            steps[name] = deepest + 1
        return steps.get(name, 0)

    for name in defined:
        visit(name, ())


def _check_call(node: Expr) -> None:
    """Refuse an unknown function or a wrong number of arguments, and truth values used as numbers."""
    if not isinstance(node, Apply):
        return
    op = SCALAR.get(node.op)
    if op is None:
        legal = [n for n in SCALAR if n[0].isalpha() and n not in ("neg", "and", "or", "not")]
        raise CascadeError(f"unknown function {node.op}", at=node.at, hint=nearest(node.op, legal))
    low, high = op.arity
    if not low <= len(node.args) <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        raise CascadeError(f"{node.op} takes {wanted} arguments, found {len(node.args)}", at=node.at)
    for i, arg in enumerate(node.args):
        wants_truth = op.logical or (node.op == "select" and i == 0)
        if wants_truth != is_logical(arg):
            wanted = "a comparison" if wants_truth else "a number"
            raise CascadeError(f"argument {i + 1} of '{node.op}' must be {wanted}", at=arg.at or node.at)
    if node.op in ("//", "%") and isinstance(node.args[1], Num) and node.args[1].value == 0:
        raise CascadeError(f"'{node.op}' divides by zero here, at every point", at=node.args[1].at or node.at)
    if node.op == "pad" and not isinstance(node.args[0], Access):
        raise CascadeError("the first argument of pad must be an access such as K[e, m + 1]", at=node.at)


class _Scope:
    """What is known while the Einsums are read in order; local to one check."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        self.ranks = frozenset(r.name for r in cascade.ranks)
        self.constants = frozenset(c.name for c in cascade.constants)
        self.sizes = self.ranks | self.constants
        self.signatures: dict[str, Signature] = {s.tensor: s for s in cascade.inputs}
        self.inputs = set(self.signatures)
        self.updated: set[str] = set()  # states whose Einsum inside a block has been read
        self.initial: dict[str, Einsum] = {}
        self.defined_in: dict[str, str | None] = {}
        self.updated_by = {e.name: block for e, block in cascade.statements if block is not None}

    def add(self, einsum: Einsum, block: str | None) -> None:
        # A rewrite changes few Einsums of many: what holds of one by itself is looked into once.
        known = ("legal", self.ranks, self.sizes) in einsum.derived
        if not known:
            self._check_expressions(einsum)
            self._check_variables(einsum)
        if block is not None and block in {v for r in einsum.reductions for v in r.variables}:
            raise CascadeError(f"{block} iterates here and cannot be reduced", at=einsum.at)
        for access in einsum.reads:
            self._check_read(access, einsum, block)
        if not known:
            if einsum.reductions:
                self._check_reductions(einsum)
            self._check_implicit(einsum)
            einsum.derived["legal", self.ranks, self.sizes] = True
        self._define(einsum, block)

    def finish(self) -> None:
        for s in self.cascade.outputs:
            found = self.signatures.get(s.tensor)
            if found is None or s.tensor in self.inputs:
                defined = [t for t in self.signatures if t not in self.inputs]
                raise CascadeError(
                    f"output {s.tensor} is never defined", at=s.at, hint=nearest(s.tensor, defined)
                )
            if found.ranks != s.ranks:
                raise CascadeError(
                    f"output {s.tensor}[{', '.join(s.ranks)}] is defined with the ranks "
                    f"[{', '.join(found.ranks)}]",
                    at=s.at,
                )
        for name, einsum in self.initial.items():
            if name not in self.updated:
                raise CascadeError(
                    f"{name} is given a first state but no iterate block goes on with {name}[...+1]",
                    at=einsum.target.at,
                )

    # one Einsum

    def _check_expressions(self, einsum: Einsum) -> None:
        if is_logical(einsum.value):
            raise CascadeError(
                "an Einsum's value must be a number; use select(condition, 1, 0)", at=einsum.at
            )
        if einsum.where is not None and not is_logical(einsum.where):
            raise CascadeError("'where' needs a comparison, such as m <= p", at=einsum.where.at or einsum.at)
        for whole in (einsum.value, *([einsum.where] if einsum.where is not None else [])):
            for node in walk(whole):
                self._check_node(node)
        for node in walk(einsum.target):
            self._check_node(node)

    def _check_node(self, node: Expr) -> None:
        """Refuse what no place of an expression may hold."""
        if isinstance(node, Var):
            rank = rank_of(node.name)
            if rank not in self.ranks:
                message = f"variable {node.name} runs over rank {rank}, which is not declared"
                raise CascadeError(message, at=node.at, hint=nearest(rank, self.ranks))
        elif isinstance(node, Access):
            for index in node.indices:
                if not isinstance(index, Var):
                    _check_index(index)
        elif isinstance(node, Size):
            if node.name not in self.sizes:
                message = f"unknown size {node.name}"
                raise CascadeError(message, at=node.at, hint=nearest(node.name, self.sizes))
        elif isinstance(node, Compare):
            if any(is_logical(a) for a in node.args):
                raise CascadeError("a comparison compares numbers; join comparisons by 'and'", at=node.at)
        else:
            _check_call(node)

    def _check_variables(self, einsum: Einsum) -> None:
        created = {r.into for r in einsum.reductions if r.into}
        for r in einsum.reductions:
            if r.into and rank_of(r.into) not in self.ranks:
                raise CascadeError(
                    f"the selected rank {rank_of(r.into)} is not declared",
                    at=r.at,
                    hint=nearest(rank_of(r.into), self.ranks),
                )
        loose = [v for v in einsum.output_variables if v not in einsum.variables and v not in created]
        if loose:
            raise CascadeError(f"the target uses {loose[0]}, which nothing on the right gives", at=einsum.at)

    def _check_read(self, access: Access, einsum: Einsum, block: str | None) -> None:
        found = self.signatures.get(access.tensor)
        if found is None:
            later = {e.name for e, _ in self.cascade.statements}
            if access.tensor in later:
                message = f"{access.tensor} is read before it is defined"
                raise CascadeError(message, at=access.at, hint=self._state_hint(access, block))
            raise CascadeError(
                f"unknown tensor {access.tensor}", at=access.at, hint=nearest(access.tensor, self.signatures)
            )
        if len(access.indices) != len(found.ranks):
            wanted = f"{found.tensor}[{', '.join(found.ranks)}]"
            raise CascadeError(
                f"{access.tensor} has {len(found.ranks)} indices, {wanted}; found {len(access.indices)}",
                at=access.at,
            )
        if found.state is None or block is None:
            return
        index = access.indices[found.state]
        if _is_next(index, block) and access.tensor not in self.updated:
            raise CascadeError(
                f"{access.tensor}[{block}+1] is read before this generation defines it", at=access.at
            )

    @staticmethod
    def _state_hint(access: Access, block: str | None) -> str:
        if block is None:
            return ""
        return f"a state needs a first value before the block: {access.tensor}[0, ...] = ..."

    def _check_reductions(self, einsum: Einsum) -> None:
        done: set[str] = set()
        roots = (einsum.value, *([einsum.where] if einsum.where is not None else []))
        used = {v for root in roots for v in variables(root)}
        for r in einsum.reductions:
            if r.op not in REDUCTION:
                raise CascadeError(f"unknown reduction {r.op}", at=r.at, hint=nearest(r.op, REDUCTION))
            if (r.into is not None) != (r.op == "topk"):
                wanted = "topk(m -> j)" if r.op == "topk" else f"{r.op}(variable, ...)"
                raise CascadeError(f"write {wanted}", at=r.at)
            for v in r.variables:
                if v in einsum.output_variables:
                    raise CascadeError(f"{v} is reduced but stands in the target", at=r.at)
                if v in done:
                    raise CascadeError(f"{v} is reduced twice", at=r.at)
                if v not in used:
                    raise CascadeError(f"{v} is reduced but not used", at=r.at, hint=nearest(v, used))
                done.add(v)
            if r.op in ("argmax", "topk"):
                self._check_selection(r, einsum, used)

    @staticmethod
    def _check_implicit(einsum: Einsum) -> None:
        implicit = [v for r in einsum.all_reductions[len(einsum.reductions) :] for v in r.variables]
        value = einsum.value
        if implicit and isinstance(value, Apply) and value.op in ("+", "-"):
            for term in value.args:
                missing = [v for v in implicit if v not in variables(term)]
                if missing:
                    raise CascadeError(
                        f"{missing[0]} is summed, but one term does not depend on it",
                        at=einsum.at,
                        hint="write two Einsums, one for the sum and one for the addition",
                    )

    @staticmethod
    def _check_selection(reduction: Reduction, einsum: Einsum, used: set[str]) -> None:
        if len(reduction.variables) > 1:
            raise CascadeError(f"{reduction.op} selects along one variable", at=reduction.at)
        if reduction.into in used:
            raise CascadeError(
                f"{reduction.into} exists only after the selection and cannot be used before",
                at=reduction.at,
                hint="write a second Einsum",
            )
        if reduction.into is not None and reduction.into not in einsum.output_variables:
            raise CascadeError(f"the selected {reduction.into} must stand in the target", at=reduction.at)

    def _define(self, einsum: Einsum, block: str | None) -> None:
        name, target = einsum.name, einsum.target
        if name in self.constants:
            raise CascadeError(f"{name} is a constant, not a tensor", at=target.at)
        state: int | None = None
        ranks: list[str] = []
        for axis, index in enumerate(target.indices):
            if isinstance(index, Var):
                ranks.append(rank_of(index.name))
            elif block is not None and _is_next(index, block):
                state = self._only_state(state, axis, target)
                ranks.append(rank_of(block))
            elif block is None and index == Num(0):
                state = self._only_state(state, axis, target)
                ranks.append("")  # which rank carries the state is known once the block is read
            else:
                raise CascadeError(
                    "a target's index is a variable, or in an iterate block the next state (m1 + 1)",
                    at=index.at or target.at,
                    hint="before the block the first state is written with the index 0",
                )
        repeated = [r for r in ranks if r and ranks.count(r) > 1]
        if repeated:
            raise CascadeError(f"the target uses {repeated[0]} twice", at=target.at)
        if block is not None and state is None and rank_of(block) not in ranks:
            raise CascadeError(
                f"{name} is defined anew in every generation; give it the index {block}", at=target.at
            )
        signature = Signature(name, tuple(ranks), state)
        self._register(einsum, signature, block)

    @staticmethod
    def _only_state(state: int | None, axis: int, target: Access) -> int:
        if state is not None:
            raise CascadeError("a tensor carries its state along one index only", at=target.at)
        return axis

    def _register(self, einsum: Einsum, signature: Signature, block: str | None) -> None:
        name = einsum.name
        first = self.initial.get(name)
        if name in self.inputs:
            raise CascadeError(f"{name} is an input and cannot be defined", at=einsum.target.at)
        if first is not None and block is not None and name not in self.updated:
            known = self.signatures[name]
            if signature.state != known.state or signature.ranks != known.ranks:
                raise CascadeError(
                    f"the states of {name} do not match: its first value has other indices",
                    at=einsum.target.at,
                )
            self.updated.add(name)
            self.signatures[name] = signature
            self.defined_in[name] = block
            return
        if name in self.signatures:
            raise CascadeError(f"{name} is defined twice", at=einsum.target.at)
        if signature.state is not None and block is None:
            self.initial[name] = einsum
            block_variable = self.updated_by.get(name)
            if block_variable is not None:
                ranks = list(signature.ranks)
                ranks[signature.state] = rank_of(block_variable)
                signature = Signature(name, tuple(ranks), signature.state)
        elif signature.state is not None:
            raise CascadeError(
                f"the state {name} has no first value",
                at=einsum.target.at,
                hint=f"write {name}[0, ...] = ... before",
            )
        self.signatures[name] = signature
        self.defined_in[name] = block


def _is_next(index: Expr, block: str) -> bool:
    return index in (Apply("+", (Var(block), Num(1))), Apply("+", (Num(1), Var(block))))


def _check_index(index: Expr) -> None:
    for node in walk(index):
        if isinstance(node, Num) and not isinstance(node.value, int):
            raise CascadeError(f"an index is a whole number, found {node.value}", at=node.at)
        if isinstance(node, Compare) or (isinstance(node, Apply) and node.op not in INDEX_OPS):
            shown = node.op if isinstance(node, Apply) else "a comparison"
            raise CascadeError(
                f"an index cannot use {shown}", at=node.at, hint="use +, -, *, //, %, min, max or clamp"
            )
