"""A batch of finished points as columns, and the bytes in which it is kept: one Arrow stream a batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .coded import Coded

_AXIS, _MIXED = {b"role": b"axis"}, {b"role": b"mixed"}


@dataclass(frozen=True, slots=True)
class Segment:
    """Finished points.

    Attributes:
        context: what the results depend on besides the point, as a digest.
        points: one coded column an axis.
        results: Arrow arrays by name, or lists where a column holds numbers and texts; `error` among them if any.
        count: how many points.
    """

    context: str
    points: Mapping[str, Coded]
    results: Mapping[str, Any]
    count: int

    @property
    def failed(self) -> int:
        """Points that could not be had."""
        return self.count - self.results["error"].null_count if "error" in self.results else 0


def digest(context: str) -> str:
    """Return what stands for a context in a segment: its SHA-256."""
    return hashlib.sha256(context.encode()).hexdigest()


def segment(points: Mapping[str, Coded], results: Mapping[str, Sequence[Any]], context: str) -> Segment:
    """Return finished points, checked: a number that is not finite is an error of its point, and not a result.

    Args:
        points: one coded column an axis.
        results: one sequence a column; None where a point has no such result. `error` says why there are none.
        context: what the results depend on besides the point.

    Raises:
        TypeError: a result is neither a number nor a text.
        ValueError: the columns are not equally long.

    >>> found = segment({"x": Coded((1, 2), np.array([0, 1]))}, {"y": [0.5, float("inf")]}, "model 1")
    >>> found.results["y"].to_pylist(), found.results["error"].to_pylist()
    ([0.5, None], [None, 'y is inf'])
    """
    count = len(next(iter(points.values())))
    arrays = {name: _array(name, values) for name, values in results.items()}
    for name, values in arrays.items():
        if len(values) != count:
            raise ValueError(f"{len(values)} values of {name} for {count} points")
    errors = _errors(arrays)
    if errors:
        wrong = np.zeros(count, dtype=bool)
        wrong[list(errors)] = True
        arrays = {name: _without(values, wrong) for name, values in arrays.items()}
        arrays["error"] = pa.array([errors.get(i) for i in range(count)], pa.string())
    return Segment(digest(context), points, arrays, count)


def _array(name: str, values: Sequence[Any]) -> Any:
    """Return a column as an Arrow array, or as a list where its cells are of several kinds."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiubU":
        return pa.array(values)
    listed = [v.item() if hasattr(v, "item") else v for v in values]
    kinds = {type(v) for v in listed} - {type(None)}
    if any(not issubclass(kind, (str, int, float)) for kind in kinds):
        wrong = next(v for v in listed if v is not None and not isinstance(v, (str, int, float)))
        raise TypeError(f"a result is a number or a text; {name} is {wrong!r}")
    if len(kinds) > 1:
        return listed
    try:
        return pa.array(listed)
    except OverflowError:  # a count beyond 64 bits
        return pa.array([None if v is None else float(v) for v in listed])


def _errors(arrays: dict[str, Any]) -> dict[int, str]:
    """Take the errors out and return them by place, with those of points whose results are not finite."""
    told = arrays.pop("error", [])
    listed = told if isinstance(told, list) else told.to_pylist() if told.null_count < len(told) else []
    errors = {i: " ".join(str(e).split()) for i, e in enumerate(listed) if e}
    for name, values in arrays.items():
        if isinstance(values, list):
            numbers = np.array([v if isinstance(v, float) else 0.0 for v in values])
        elif pa.types.is_floating(values.type):
            numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False)
        else:
            continue
        for i in np.flatnonzero(~np.isfinite(numbers)).tolist():
            errors.setdefault(i, f"{name} is {float(numbers[i])}")
    return errors


def _without(values: Any, wrong: Any) -> Any:
    """Return a column without the cells of the points that went wrong."""
    if isinstance(values, list):
        return [None if w else v for v, w in zip(values, wrong.tolist(), strict=True)]
    return pc.if_else(pa.array(wrong), pa.scalar(None, values.type), values)


def encode(found: Segment) -> bytes:
    """Return a segment as an Arrow stream."""
    columns, fields = [], []
    for name, column in found.points.items():
        texts = pa.array([json.dumps(v) for v in column.values], pa.string())
        columns.append(pa.DictionaryArray.from_arrays(pa.array(column.which.astype(np.int32)), texts))
        fields.append(pa.field(name, columns[-1].type, metadata=_AXIS))
    for name, values in found.results.items():
        mixed = isinstance(values, list)
        plain = (
            pa.array([None if v is None else json.dumps(v) for v in values], pa.string()) if mixed else values
        )
        columns.append(plain)
        fields.append(pa.field(name, plain.type, metadata=_MIXED if mixed else None))
    schema = pa.schema(fields, metadata={"context": found.context})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def decode(data: bytes) -> Segment | None:
    """Return the segment in an Arrow stream; None where it is no such thing.

    >>> found = segment({"x": Coded((1.0, "a"), np.array([0, 1]))}, {"y": [3, "b"]}, "model 1")
    >>> decode(encode(found)).results == found.results, decode(b"damaged") is None
    (True, True)
    """
    try:
        batch = pa.ipc.open_stream(data).read_next_batch()
    except (pa.ArrowInvalid, OSError, StopIteration):
        return None
    points: dict[str, Coded] = {}
    results: dict[str, Any] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        role = (field.metadata or {}).get(b"role")
        if role == b"axis":
            values = tuple(json.loads(text) for text in column.dictionary.to_pylist())
            points[field.name] = Coded(values, column.indices.to_numpy().astype(np.int64))
        elif role == b"mixed":
            results[field.name] = [None if text is None else json.loads(text) for text in column.to_pylist()]
        else:
            results[field.name] = column
    context = (batch.schema.metadata or {}).get(b"context", b"").decode()
    return Segment(context, points, results, batch.num_rows)


def decoded(parts: Iterator[bytes]) -> Iterator[Segment]:
    """Yield the segments of a store; what cannot be read is passed over, so that its points are computed again."""
    for data in parts:
        found = decode(data)
        if found is not None and found.points:
            yield found
