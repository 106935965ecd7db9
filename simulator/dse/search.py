"""Search: points are asked for one generation after another, each where the results so far promise better ones."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from einsum_cascade.errors import DataError, nearest

from .coded import coded
from .computed import is_formula, objective, values_in
from .formulas import magnitude, magnitudes
from .runner import Pending, Runner
from .segments import Segment, decode, digest
from .space import Range, Space, Value, rows

METHODS = ("optuna", "pymoo")
# Points of a generation: enough to keep workers busy, few enough for many generations.
_GENERATION = 64
# What a point that cannot be had costs; it only has to be more than anything that can.
_NEVER = 1e300


@dataclass(frozen=True, slots=True)
class Search:
    """How to search, and for what.

    Attributes:
        method: `optuna` (tree-structured Parzen estimators) or `pymoo` (NSGA-II), both optional packages.
        minimize: columns, or formulas over them, of which less is better; `maximize`: of which more is.
    """

    method: str
    minimize: tuple[str, ...] = ()
    maximize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DataError(f"search: unknown method '{self.method}'; {nearest(self.method, METHODS)}")
        if not self.minimize and not self.maximize:
            raise DataError("search: say for what, as in minimize: [latency_s, area_mm2]")

    @property
    def signs(self) -> dict[str, float]:
        """What turns each objective into a cost."""
        return dict.fromkeys(self.minimize, 1.0) | dict.fromkeys(self.maximize, -1.0)


class Proposer(Protocol):
    """What proposes points: ask, then tell what they cost."""

    def ask(self) -> list[list[float]]:
        """Return a generation, each point by a gene an axis: the number of a value, or a fraction of a range."""

    def tell(self, costs: Sequence[Sequence[float] | None]) -> None:
        """Say what the points of the last generation cost; None for one that cannot be had."""


def searched(space: Space, search: Search, runner: Runner) -> Space:
    """Try `space.samples` points and return those that differ, in the order in which they were asked for.

    A generation has always the same length and is told in the order in which it was asked for, so that neither workers
    nor an interruption changes what is asked: a run that goes on finds the results of its first points in the store.

    Raises:
        DataError: the space has no samples, the package is missing, or no point meets the constraints.
    """
    if space.samples is None:
        raise DataError("search: say how many points to try, as in samples: 1000")
    propose = _proposer(search.method, space, len(search.signs))
    known = _known(space, search, runner)
    asked: list[dict[str, Value]] = []
    size = 1
    while len(asked) < space.samples:
        points = [_decoded(space.axes, genes) for genes in propose.ask()][: space.samples - len(asked)]
        if not points:
            break  # nothing new is left to ask for
        asked += points
        generation = _of(space, points)
        places = list(rows(generation.coded(range(len(generation)))))
        done = np.array([_key(point) in known for point in places], dtype=bool)
        runner.bar.update(len(points) - int((~done).sum()))
        pending = Pending(generation, done, size)
        for batch in runner.run(pending):
            found = decode(batch.data)
            known |= _costs(found, search) if found else {}
        size = pending.size
        if len(points) < _GENERATION:
            break
        legal = {tuple(point[n] for n in space.axes): _key(point) for point in places}
        propose.tell([known.get(legal.get(tuple(p.values()), ())) for p in points])
    found_all = _of(space, asked)
    if not len(found_all):
        raise DataError(f"where: none of {len(asked):,} points that were tried meets the constraints")
    return found_all


def _of(space: Space, points: Sequence[Mapping[str, Value]]) -> Space:
    drawn = {name: coded([point[name] for point in points]) for name in space.axes}
    return Space(space.axes, where=space.where, derived=space.derived, drawn=drawn)


def _known(space: Space, search: Search, runner: Runner) -> dict[Any, Any]:
    """Return what points of an interrupted search cost."""
    out: dict[Any, Any] = {}
    if runner.kept.saved:
        for part in runner.kept.parts():
            found = decode(part)
            if (
                found is not None
                and found.context == digest(runner.task.context)
                and set(found.points) == set(space.names)
            ):
                out |= _costs(found, search)
    return out


def _costs(found: Segment, search: Search) -> dict[Any, tuple[float, ...] | None]:
    """Return the costs of each point of a segment; None where it cannot be had."""
    columns = []
    for name, sign in search.signs.items():
        listed = _computed(found, name) if is_formula(name) else _listed(found, name)
        columns.append([None if v is None else sign * float(v) for v in listed])
    costs = zip(*columns, strict=True)
    return {
        _key(point): None if None in cost else cost
        for point, cost in zip(rows(found.points), costs, strict=True)
    }


def _computed(found: Segment, text: str) -> list[Any]:
    """Return a formula over the columns of a segment; None at points without a result."""
    try:
        formula = objective(text, [*found.points, *found.results])
    except DataError:
        return [None] * found.count  # no point of it has results; the formula was checked before the search
    return values_in(formula, {c: _listed(found, c) for c in formula.axes.values()})


def _listed(found: Segment, name: str) -> list[Any]:
    """Return a column of a segment, an axis or a result; None where there is none."""
    if name in found.points:  # an axis that costs something itself
        at: list[Any] = magnitudes(found.points[name].values)[found.points[name].which].tolist()
        return at
    values = found.results.get(name, [None] * found.count)
    return values if isinstance(values, list) else values.to_pylist()


def _key(point: Mapping[str, Value]) -> tuple[Any, ...]:
    return tuple(sorted((name, repr(value)) for name, value in point.items()))


def _decoded(axes: Mapping[str, Sequence[Value] | Range], genes: Sequence[float]) -> dict[str, Value]:
    return {
        name: values.at(np.array([gene]))[0] if isinstance(values, Range) else values[int(gene)]
        for (name, values), gene in zip(axes.items(), genes, strict=True)
    }


def _proposer(method: str, space: Space, objectives: int) -> Proposer:
    try:
        importlib.import_module(method)
    except ImportError:
        raise DataError(
            f"search: {method} is not installed; install it: pip install 'einsum-cascade[search]'"
        ) from None
    make: type[_Optuna] | type[_Pymoo] = _Optuna if method == "optuna" else _Pymoo
    return make(space, objectives)


class _Optuna:
    """Tree-structured Parzen estimators, for one objective or several.

    Source: J. Bergstra et al., "Algorithms for hyper-parameter optimization" (NIPS 2011); Y. Ozaki et al.,
        "Multiobjective tree-structured Parzen estimator" (JAIR 2022).
    """

    def __init__(self, space: Space, objectives: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._kinds = {name: self._kind(values) for name, values in space.axes.items()}
        with _quiet():
            sampler = optuna.samplers.TPESampler(seed=space.seed, multivariate=True, constant_liar=True)
            self._study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
        self._asked: list[Any] = []

    @staticmethod
    def _kind(values: Sequence[Value] | Range) -> Any:
        from optuna import distributions

        if isinstance(values, Range):
            return distributions.FloatDistribution(0.0, 1.0)
        if len(values) > 1 and all(magnitude(v) is not None for v in values):
            return distributions.IntDistribution(0, len(values) - 1)
        return distributions.CategoricalDistribution(tuple(range(len(values))))

    def ask(self) -> list[list[float]]:
        with _quiet():
            self._asked = [self._study.ask(self._kinds) for _ in range(_GENERATION)]
        return [[trial.params[name] for name in self._kinds] for trial in self._asked]

    def tell(self, costs: Sequence[Sequence[float] | None]) -> None:
        from optuna.trial import TrialState

        with _quiet():
            for trial, cost in zip(self._asked, costs, strict=True):
                if cost is None:
                    self._study.tell(trial, state=TrialState.FAIL)
                else:
                    self._study.tell(trial, list(cost))


class _Pymoo:
    """NSGA-II over one gene an axis, a number from 0 to 1.

    Source: K. Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II" (2002).
    """

    def __init__(self, space: Space, objectives: int) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem

        lengths = [np.inf if isinstance(v, Range) else len(v) for v in space.axes.values()]
        self._lengths = np.array(lengths)
        self._objectives = objectives
        problem = Problem(n_var=len(lengths), n_obj=objectives, n_ieq_constr=1, xl=0.0, xu=1.0)
        self._problem = problem
        self._algorithm = NSGA2(pop_size=_GENERATION, eliminate_duplicates=False)
        self._algorithm.setup(problem, termination=("n_gen", 1 << 30), seed=space.seed, verbose=False)
        self._asked: Any = None

    def ask(self) -> list[list[float]]:
        self._asked = self._algorithm.ask()
        fractions = self._asked.get("X").astype(float)
        places = np.minimum(np.floor(fractions * self._lengths), self._lengths - 1)
        genes: list[list[float]] = np.where(np.isinf(self._lengths), fractions, places).tolist()
        return genes

    def tell(self, costs: Sequence[Sequence[float] | None]) -> None:
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        worst = (_NEVER,) * self._objectives
        values = np.array([worst if cost is None else cost for cost in costs])
        refused = np.array([[1.0 if cost is None else 0.0] for cost in costs])
        Evaluator().eval(StaticProblem(self._problem, F=values, G=refused), self._asked)
        self._algorithm.tell(infills=self._asked)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep away what optuna says of features that it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
