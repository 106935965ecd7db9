"""What one worker does with one batch of points: evaluate, check, and bring the results into bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from einsum_cascade.errors import ModelError

from .coded import Coded
from .segments import encode, segment
from .space import rows

Evaluate: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
EvaluateMany: TypeAlias = Callable[[Mapping[str, Sequence[Any]]], Mapping[str, Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker needs besides the points.

    Attributes:
        evaluate: one point -> its results, flat or nested in mappings; a ModelError where there are none.
        evaluate_many: columns of points -> columns of results; None to go one by one.
        context: what the results depend on besides the point.
    """

    evaluate: Evaluate
    evaluate_many: EvaluateMany | None = None
    context: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker gives back: finished points as bytes, and what the progress bar wants to know."""

    data: bytes
    count: int
    failed: int
    seconds: float


def work(task: Task, points: Mapping[str, Coded]) -> Batch:
    """Return the finished points of a batch.

    Args:
        points: one coded column an axis.

    >>> from .coded import coded
    >>> work(Task(lambda point: {"y": -point["x"]}), {"x": coded([1, 2])}).count
    2
    """
    started = time.perf_counter()
    found = segment(points, _results(task, points), task.context)
    return Batch(encode(found), found.count, found.failed, time.perf_counter() - started)


def _results(task: Task, points: Mapping[str, Coded]) -> dict[str, Any]:
    """Return the results as columns."""
    if task.evaluate_many is not None:
        try:
            return dict(flat(task.evaluate_many(points)))
        except ModelError:
            pass  # one of the points is to blame; one by one, each says for itself
    found = [_one(task.evaluate, point) for point in rows(points)]
    names = dict.fromkeys(name for row in found for name in row)
    return {name: [row.get(name) for row in found] for name in names}


def _one(evaluate: Evaluate, point: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(flat(evaluate(point)))
    except ModelError as error:
        return {"error": str(error)}


def flat(results: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield nested results as columns with dotted names.

    >>> dict(flat({"latency_s": 1.0, "utilization": {"PE2D": 0.5}}))
    {'latency_s': 1.0, 'utilization.PE2D': 0.5}
    """
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
