"""What one worker does with one batch of points: evaluate, and write the finished lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from einsum_cascade.errors import ModelError

from .space import Space, rows
from .store import canonical_points, key_of, line_of

Evaluate: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
EvaluateMany: TypeAlias = Callable[[Mapping[str, Sequence[Any]]], Mapping[str, Sequence[Any]]]

_BLOCK = 1 << 14  # points turned into text at a time


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker needs besides the points.

    Attributes:
        evaluate: one point -> its results, flat or nested in mappings; a ModelError where there are none.
        evaluate_many: columns of points -> columns of results; None to go one by one.
        context: what the results depend on besides the point; part of every key.
    """

    evaluate: Evaluate
    evaluate_many: EvaluateMany | None = None
    context: str = ""

    def keys(self, space: Space) -> list[str]:
        """Return the key of every point."""
        blocks = (space.columns(range(i, min(i + _BLOCK, len(space)))) for i in range(0, len(space), _BLOCK))
        return [key_of(text, self.context) for columns in blocks for text in canonical_points(columns)]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker gives back: finished lines, and what the progress bar wants to know."""

    lines: bytes
    count: int
    failed: int
    seconds: float


def work(task: Task, columns: Mapping[str, Sequence[Any]]) -> Batch:
    r"""Return the finished lines of a batch of points.

    Args:
        columns: the points as one list of values an axis.

    >>> work(Task(lambda point: {"y": -point["x"]}), {"x": [1, 2]}).lines.count(b"\n")
    2
    """
    started = time.perf_counter()
    points = list(rows(columns))
    results = _results(task, columns, points)
    texts = canonical_points(columns)
    lines = [line_of(key_of(t, task.context), t, r) for t, r in zip(texts, results, strict=True)]
    failed = sum("error" in result for result in results)
    return Batch("".join(lines).encode(), len(points), failed, time.perf_counter() - started)


def _results(
    task: Task, columns: Mapping[str, Sequence[Any]], points: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    if task.evaluate_many is not None:
        try:
            return _split(task.evaluate_many(columns), len(points))
        except ModelError:
            pass  # one of the points is to blame; one by one, each says for itself
    return [_one(task.evaluate, point) for point in points]


def _one(evaluate: Evaluate, point: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _checked(dict(flat(evaluate(point))))
    except ModelError as error:
        return {"error": " ".join(str(error).split())}


def _split(found: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    columns = {n: v.tolist() if hasattr(v, "tolist") else list(v) for n, v in flat(found)}
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(f"evaluate_many returned {len(values)} values of {name} for {count} points")
    errors = columns.pop("error", [None] * count)
    gaps = any(None in values for values in columns.values())
    results = rows(columns) if columns else iter([{}] * count)
    return [
        {"error": " ".join(str(error).split())}
        if error
        else _checked(_without_gaps(result) if gaps else result)
        for result, error in zip(results, errors, strict=True)
    ]


def _without_gaps(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without the columns that only other points have."""
    return {name: value for name, value in result.items() if value is not None}


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


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result as plain Python values; a number that is not finite is an error, not a result."""
    for name, value in result.items():
        if value.__class__ is str or value.__class__ is int:
            continue
        if hasattr(value, "item"):
            result[name] = value = value.item()
        if not isinstance(value, (str, int, float)) and value is not None:
            raise TypeError(f"a result is a number or a text; {name} is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            return {"error": f"{name} is {value}"}
    return result
