"""A sweep file -> what to sweep, over which space, towards which objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from einsum_cascade.errors import DataError, ModelError, nearest
from mappings.reader import read_yaml

from .search import Search
from .space import Derived, Range, Space
from .subjects import Subject, check_axes, subject_of

_SPACE = ("axes", "where", "derive", "samples", "seed", "search", "design")
_OBJECTIVES = ("minimize", "maximize")


@dataclass(frozen=True, slots=True)
class Spec:
    """A sweep as a file describes it.

    Attributes:
        subject: what is swept.
        inputs: its inputs that are no axes, as text.
        space: the points.
        minimize: objectives of which less is better.
        maximize: objectives of which more is better.
        search: the method that chooses the points; empty for a grid or a sample.
    """

    subject: Subject
    inputs: Mapping[str, str]
    space: Space
    minimize: tuple[str, ...] = ()
    maximize: tuple[str, ...] = ()
    search: str = ""


def read_spec(path: str | Path) -> Spec:
    """Return the sweep that a YAML file describes.

    Raises:
        DataError: with the file and the field; unknown, missing, given twice, or of the wrong kind.
    """
    documents = read_yaml(path, error=DataError)
    if len(documents) != 1 or not isinstance(documents[0], Mapping):
        raise DataError(f"{path}: expected one document of fields such as 'cascade: attention_1pass'")
    document = {str(k): v for k, v in documents[0].items()}
    try:
        return _spec(document)
    except ModelError as error:
        raise DataError(f"{path}: {error}") from None


def _spec(document: Mapping[str, Any]) -> Spec:
    axes = document.get("axes")
    named = axes if isinstance(axes, Mapping) else {}
    subject = subject_of([*document, *named], hardware=document.get("hardware", named.get("hardware")))
    legal = (*subject.legal, *_SPACE, *_OBJECTIVES)
    for name in document:
        if name not in legal:
            raise DataError(f"unknown field '{name}'; {nearest(name, legal)}")
    if not isinstance(axes, Mapping):
        found = "missing field 'axes'" if axes is None else f"axes: found {axes!r}"
        raise DataError(f"{found}; expected 'NAME: [values]' pairs, for example hardware.N: [64, 128]")
    derived = _derived(document.get("derive"))
    check_axes(subject, [*map(str, axes), *derived])
    space = Space(
        {str(name): _axis(str(name), values) for name, values in axes.items()},
        where=document.get("where") or (),
        derived=derived,
        samples=document.get("samples"),
        seed=_whole("seed", document.get("seed", 0)),
        design=str(document.get("design", "sobol")),
    )
    inputs = {n: _text(n, document[n]) for n in subject.legal if n in document}
    objectives = {name: _names(name, document.get(name)) for name in _OBJECTIVES}
    search = document.get("search", "")
    if not isinstance(search, str):
        raise DataError(f"search: expected a method such as optuna, found {search!r}")
    if search:
        Search(search, **objectives)
        if space.samples is None:
            raise DataError("search: say how many points to try, as in samples: 1000")
    return Spec(subject, inputs, space, **objectives, search=search)


def _axis(name: str, given: Any) -> Any:
    """Return a list of values, shapes among them as texts (`16,8`), and `{from, to, log, whole, unit}` as a range."""
    if isinstance(given, list):
        return [",".join(map(str, v)) if isinstance(v, list) else v for v in given]
    if not isinstance(given, Mapping):
        return given
    words = {"from": "low", "to": "high", "log": "log", "whole": "whole", "unit": "unit"}
    for word in given:
        if word not in words:
            raise DataError(f"axes: {name}: unknown field '{word}'; {nearest(str(word), words)}")
    for word in ("from", "to"):
        if isinstance(given.get(word), bool) or not isinstance(given.get(word), (int, float)):
            raise DataError(
                f"axes: {name}: a range needs numbers 'from' and 'to', and may have log, whole, unit"
            )
    for word in ("log", "whole"):
        if not isinstance(given.get(word, False), bool):
            raise DataError(f"axes: {name}: {word}: expected true or false, found {given[word]!r}")
    try:
        return Range(**{words[k]: v for k, v in given.items()})
    except DataError as error:
        raise DataError(f"axes: {name}: {error}") from None


def _derived(given: Any) -> dict[str, Derived]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise DataError(f"derive: expected 'NAME: formula' pairs, found {given!r}")
    out = {}
    for name, formula in given.items():
        if isinstance(formula, Mapping):
            if set(formula) - {"formula", "unit"} or not isinstance(formula.get("formula"), str):
                raise DataError(f"derive: {name}: expected {{formula: TEXT, unit: TEXT}}")
            out[str(name)] = Derived(formula["formula"], str(formula.get("unit", "")))
        else:
            out[str(name)] = Derived(str(formula))
    return out


def _text(name: str, value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return ",".join(f"{k}={v}" for k, v in value.items())
    raise DataError(f"{name}: expected a name or a path, found {value!r}")


def _names(name: str, given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise DataError(f"{name}: expected a list of columns such as [latency_s, area_mm2], found {given!r}")
    return tuple(names)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{name}: expected a whole number from 0, found {value!r}")
    return value
