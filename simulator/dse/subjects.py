"""The subjects of a sweep: which inputs each has, which axes it knows, and who evaluates a point."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from einsum_cascade.errors import DataError, ModelError, nearest
from mappings.expression import evaluate_expression

from .batch import Evaluate, EvaluateMany, flat
from .computed import is_formula, objective
from .formulas import magnitude
from .points.gpus import is_gpu
from .provenance import fingerprint, model_version
from .space import Range, Space
from .store import canonical
from .trials import check_values


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that can be swept.

    Attributes:
        name: for people.
        key: the input whose presence tells this subject from the others.
        inputs: what has to be given, by an input of the sweep or by an axis of the same name.
        optional: what may be given.
        roots: words before the dot of an axis; an input may be an axis itself.
        module: holds `evaluate(point, *, inputs)`, `prepare(point, *, inputs)`, which only reads the inputs, and
            `waterfall(point, *, inputs)` where a point has a schedule.
        many: holds `evaluate_many(columns, *, inputs)`, which evaluates points together; empty where there is none.
    """

    name: str
    key: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...]
    roots: tuple[str, ...]
    module: str
    many: str = ""

    @property
    def legal(self) -> tuple[str, ...]:
        """All inputs."""
        return self.inputs + self.optional


SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        s.key: s
        for s in (
            Subject(
                "a cascade on a spatial machine",
                "cascade",
                ("cascade", "hardware", "sizes"),
                ("mapping", "objective"),
                ("hardware", "mapping", "sizes"),
                ".points.attention",
                ".points.together",
            ),
            Subject(
                "a kernel on a GPU",
                "kernel",
                ("kernel", "hardware", "sizes"),
                ("implementation", "mask", "mapping"),
                ("hardware", "sizes"),
                ".points.kernel",
            ),
            Subject(
                "neighbourhood attention",
                "layout",
                ("layout", "window", "q_tile", "kv_tile"),
                (
                    "stride",
                    "dilation",
                    "causal",
                    "dynamic",
                    "hardware",
                    "backend",
                    "heads",
                    "head_dim",
                    "batch",
                ),
                ("hardware",),
                ".points.neighbourhood",
            ),
        )
    }
)


# What a mapping can be searched for, alone or in a formula.
SEARCHED = ("latency_s", "energy_j", "traffic_bytes")
# Axes of these names, or below them, change what is computed, not the machine or the way in which it is.
_WORK = frozenset({"sizes", "mask", "layout", "window", "dilation", "causal", "heads", "head_dim", "batch"})


def changes_work(axis: str) -> bool:
    """Tell whether points that differ in an axis do different work, so that they are not to be compared.

    >>> changes_work("sizes.seq"), changes_work("window"), changes_work("hardware.N"), changes_work("stride")
    (True, True, False, False)
    """
    return axis.partition(".")[0] in _WORK


# A cascade has a subject for each kind of machine.
_ON_GPU = Subject(
    "a cascade on a GPU",
    "cascade",
    ("cascade", "hardware", "sizes"),
    ("implementation", "dtype", "kernels"),
    ("hardware", "sizes"),
    ".points.text",
)


_ANYWHERE = Subject(
    "a cascade on machines of both kinds",
    "cascade",
    ("cascade", "hardware", "sizes"),
    ("objective",),
    ("hardware", "sizes"),
    ".points.either",
)


def subject_of(given: Iterable[str], *, hardware: Any = None) -> Subject:
    """Return the subject that the given inputs speak of.

    Args:
        given: their names.
        hardware: the machine, or a list of several.

    Raises:
        DataError: none of them tells.
    """
    names = set(given)
    for key, subject in SUBJECTS.items():
        if key in names:
            return subject if key != _ON_GPU.key else _by_machines(names, subject, hardware)
    wanted = " or ".join(f"'{key}' ({s.name})" for key, s in SUBJECTS.items())
    raise DataError(f"what is to be swept? expected {wanted}")


def _by_machines(names: Iterable[str], spatial: Subject, hardware: Any) -> Subject:
    """Return the subject of a cascade on some machines."""
    # Who gives a mapping means a spatial machine.
    if any(name.partition(".")[0] == "mapping" for name in names):
        return spatial
    kinds = {is_gpu(each) for each in (hardware if isinstance(hardware, (list, tuple)) else [hardware])}
    return _ANYWHERE if len(kinds) > 1 else _ON_GPU if kinds == {True} else spatial


def searched_for(subject: Subject, given: Iterable[str], minimize: Iterable[str]) -> str:
    """Return what a mapping is searched for at each point; empty where none is searched, or the subject decides.

    That is the first objective of the sweep that a mapping decides alone, with the chip as it is.

    Args:
        subject: what is swept.
        given: names of inputs and axes.
        minimize: the objectives.

    >>> spatial = SUBJECTS["cascade"]
    >>> searched_for(spatial, ["cascade"], ["area_mm2", "latency_s * energy_j", "latency_s"])
    'latency_s * energy_j'
    >>> searched_for(spatial, ["cascade", "mapping"], ["energy_j"])
    ''
    """
    if "objective" not in subject.optional or {"mapping", "objective"} & set(given):
        return ""
    for name in minimize:
        with contextlib.suppress(ModelError):
            evaluate_expression(name, dict.fromkeys(SEARCHED, 1.0), where="minimize", error=DataError)
            return name
    return ""


def evaluator(subject: Subject, space: Space, inputs: Mapping[str, Any]) -> Evaluate:
    """Return the function that evaluates a point, after its inputs and every value of every axis were checked.

    Raises:
        ModelError: an input is missing, an axis is unknown, or a value cannot be read.
    """
    for name in subject.inputs:
        if name not in inputs and name not in space.names:
            raise DataError(f"missing field '{name}'; {subject.name} needs {', '.join(subject.inputs)}")
    check_axes(subject, space.names)
    for axis in space.names:
        if axis in inputs:
            raise DataError(f"'{axis}' is both a field and an axis; give it once")
    module = importlib.import_module(subject.module, __package__)
    check_values(space, functools.partial(module.prepare, inputs=inputs))
    evaluate: Evaluate = functools.partial(module.evaluate, inputs=dict(inputs))
    return evaluate


def evaluator_of_many(subject: Subject, inputs: Mapping[str, Any]) -> EvaluateMany | None:
    """Return the function that evaluates many points at once; None where the subject has none."""
    if not subject.many:
        return None
    module = importlib.import_module(subject.many, __package__)
    evaluate: EvaluateMany = functools.partial(module.evaluate_many, inputs=dict(inputs))
    return evaluate


def waterfalls(
    points: Mapping[int, Mapping[str, Any]], inputs: Mapping[str, Any]
) -> dict[int, list[tuple[str, str, float, float]]]:
    """Return the schedule of some points by their numbers; empty where the subject has none, or cannot be read back.

    Args:
        points: by any number.
        inputs: of the sweep.
    """
    first = next(iter(points.values()), {})
    subject = subject_of([*inputs, *first], hardware={**inputs, **first}.get("hardware"))
    module = importlib.import_module(subject.module, __package__)
    if not hasattr(module, "waterfall"):
        return {}
    try:
        return {number: module.waterfall(point, inputs=inputs) for number, point in points.items()}
    except ModelError:
        return {}


def check_axes(subject: Subject, names: Iterable[str]) -> None:
    """Refuse an axis that is no input of the subject and stands below none.

    Raises:
        DataError: with the nearest legal name.
    """
    for axis in names:
        root, dot, field = axis.partition(".")
        if axis not in subject.legal and not (dot and field and root in subject.roots):
            legal = [*subject.legal, *(f"{r}.{field or 'FIELD'}" for r in subject.roots)]
            raise DataError(f"axes: unknown axis '{axis}'; {nearest(axis, legal)}")


# So many points at most are evaluated to learn the columns of a table; where all of them fail, the sweep tells.
_SAMPLED = 16


def check_objectives(space: Space, evaluate: Evaluate, objectives: Mapping[str, Iterable[str]]) -> None:
    """Refuse an objective that the table will not have, or that is a text, by evaluating a point beforehand.

    Args:
        space: the points.
        evaluate: of one point.
        objectives: `minimize` and `maximize`, columns or formulas over them each.

    Raises:
        DataError: with the nearest column.
    """
    named = [(sense, name) for sense, names in objectives.items() for name in names]
    row = _first_row(space, evaluate) if named else {}
    for i, (sense, name) in enumerate(named):
        if row and name not in row and is_formula(name):
            read = tuple(objective(name, row, where=sense).axes.values())
        elif row and name not in row:
            raise DataError(f"{sense}: unknown column '{name}'; {nearest(name, row)}")
        else:
            read = (name,)
        for column in read:
            if isinstance(row.get(column), str) and magnitude(row[column]) is None:
                raise DataError(
                    f"{sense}: column '{column}' holds texts; an objective is a number, or an amount such as 16 MiB"
                )
        if name in [other for _, other in named[:i]]:
            raise DataError(f"{sense}: '{name}' is named as an objective twice")


def _first_row(space: Space, evaluate: Evaluate) -> dict[str, Any]:
    """Return axes and results of the first of some points, spread over the space, that can be evaluated."""
    for position in range(0, len(space), -(-len(space) // _SAMPLED)):
        point = space[position]
        try:
            return {**point, **dict(flat(evaluate(point)))}
        except ModelError:
            continue  # a point that does not fit says so in the table
    return {}


def context_of(space: Space, inputs: Mapping[str, Any]) -> str:
    """Return what results depend on besides the point: the model, the inputs, and files that an axis names."""
    files = {
        value: fingerprint(value)
        for values in space.axes.values()
        if not isinstance(values, Range)
        for value in values
        if isinstance(value, str) and fingerprint(value) != value
    }
    return canonical(
        {"model": model_version(), "inputs": {k: fingerprint(v) for k, v in inputs.items()}, "files": files}
    )
