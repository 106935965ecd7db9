"""A hardware file and its parameters -> a chip; quantities by units.txt, any field open to an override."""

from __future__ import annotations

import copy
import functools
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from einsum_cascade.errors import HardwareError, nearest
from mappings.expression import evaluate_expression
from mappings.reader import as_stated, build, parse_yaml, read_text
from mappings.schema import Origin, dataclass_of, element_type, file_fields, marked, unit_of

LIBRARY = Path(__file__).parent / "library"
_KINDS = {"spatial": (".model", "SpatialChip"), "gpu": (".gpu", "Gpu")}
_EXAMPLES = {
    "byte": "16 MiB",
    "byte/second": "400 GiB/s",
    "hertz": "940 MHz",
    "joule": "2.5 pJ",
    "mm^2": "84.2 mm^2",
    "second": "600 ns",
    "watt": "700 W",
    "flop/second": "989 TFLOP/s",
}
_FACTOR = re.compile(r"\s*[x×]\s*(\d+\.?\d*|\.\d+)\s*")
_AMOUNT = re.compile(r"\s*(\d+\.?\d*(?:[eE][-+]?\d+)?)\s*([A-Za-z][\w/^*]*)\s*")
_QUANTITY = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*[A-Za-z]")


def load_hardware(
    name_or_path: str | Path,
    overrides: Mapping[str, str | int | float] | None = None,
    **parameters: str | int | float,
) -> Any:
    """Return a chip of the library, or of a file of your own, with parameters and fields set.

    Args:
        name_or_path: a name or alias in the library, or the path of a YAML file.
        overrides: by parameter (`N`) or by path (`memories.DRAM.bandwidth`); a quantity is text, and `x2` or `x0.5`
            multiplies what the file says.
        **parameters: the same, for names that are Python words: `load_hardware("fusemax", N=128)`.

    Returns:
        A `SpatialChip` or a `Gpu`, by the `kind` of the file.

    Raises:
        HardwareError: no such chip, a malformed file, an unknown parameter or field, a missing unit.

    >>> load_hardware("fusemax", {"memories.DRAM.bandwidth": "200 GiB/s"}, N=128).arrays["PE2D"].shape
    (128, 128)
    >>> load_hardware("h100", {"exp_per_cycle": "x2", "l2": "x0.5"}).exp_per_cycle
    32.0
    """
    changes = {**(overrides or {}), **parameters}
    return _read(find_hardware(name_or_path), (tuple(changes.items()),))


def with_fields(chip: Any, changes: Mapping[str, Any]) -> Any:
    """Return a chip that was read from a file as that file describes it, with fields of it set.

    Raises:
        HardwareError: it was made or changed in Python, or see `load_hardware`.

    >>> with_fields(load_hardware("fusemax", N=128), {"N": "x2", "L3": "8 MiB"}).arrays["PE2D"].shape
    (256, 256)
    """
    if chip.origin is None:
        raise HardwareError(
            f"{chip.name}: a chip that was made or changed in Python has no file of which '{next(iter(changes))}' "
            "could be set; give the name or the path of one"
        )
    return _read(Path(chip.origin.path), (chip.origin.changes, tuple(changes.items())))


def _read(path: Path, rounds: Sequence[tuple[tuple[str, Any], ...]]) -> Any:
    """Return the chip of a file with fields set, one round of them after the other."""
    where = path.stem if path.is_relative_to(LIBRARY) else str(path)
    document = copy.deepcopy(_document(str(path), path.stat().st_mtime_ns, where))
    for changes in rounds:
        _apply(document, dict(changes), where)
    chip = _chip(document, where)
    if len(rounds) == 1 and hasattr(chip, "origin"):
        return marked(chip, Origin(str(path), rounds[0]))
    return chip


def find_hardware(name_or_path: str | Path) -> Path:
    """Return the file of a chip, by name, alias or path."""
    text = str(name_or_path)
    by_name = library()
    if text in by_name:
        return by_name[text]
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        if not path.is_file():
            raise HardwareError(f"{text}: no such hardware file")
        return path
    # All of them, for the few spatial chips would be cut off behind the GPUs.
    hint = nearest(text, by_name, listed=len(by_name), shown=names())
    raise HardwareError(f"unknown hardware '{text}'; {hint}")


@functools.cache
def library() -> Mapping[str, Path]:
    """Return the files of the library by name and by alias."""
    found: dict[str, Path] = {}
    for path in sorted(LIBRARY.rglob("*.yaml")):
        found[path.stem] = path
        for alias in _document(str(path), path.stat().st_mtime_ns, path.stem).get("aliases", ()):
            found[alias] = path
    return found


def names(kind: str | None = None) -> tuple[str, ...]:
    """Return the chips of the library, optionally of one kind (`spatial`, `gpu`); aliases are not listed."""
    return tuple(e["name"] for e in entries(kind))


def entries(kind: str | None = None) -> tuple[dict[str, str], ...]:
    """Return name, kind, summary and source of every chip of the library."""
    out = []
    for path in sorted(LIBRARY.rglob("*.yaml"), key=lambda p: p.stem):
        document = _document(str(path), path.stat().st_mtime_ns, path.stem)
        if kind in (None, document["kind"]):
            texts = {k: str(document.get(k, "")) for k in ("kind", "summary", "source")}
            out.append({"name": path.stem, **texts})
    return tuple(out)


def descriptions() -> tuple[tuple[str, str, str], ...]:
    """Return (name, summary, source) of every chip of the library."""
    return tuple((e["name"], e["summary"], e["source"]) for e in entries())


@functools.lru_cache(maxsize=256)
def _document(path: str, modified_ns: int, where: str) -> dict[str, Any]:
    documents = parse_yaml(read_text(Path(path), error=HardwareError), path, error=HardwareError)
    if len(documents) != 1:
        raise HardwareError(f"{where}: a hardware file holds one document, found {len(documents)}")
    document = documents[0]
    if not isinstance(document, dict):
        raise HardwareError(f"{where}: expected fields such as 'kind: spatial', found {document!r}"[:200])
    found = document.get("kind")
    if not isinstance(found, str) or found not in _KINDS:
        raise HardwareError(f"{where}: kind: expected one of {', '.join(_KINDS)}, found {found!r}")
    return document


def _apply(document: dict[str, Any], changes: Mapping[str, Any], where: str) -> None:
    parameters = document.setdefault("parameters", {}) or {}
    document["parameters"] = parameters
    for key, value in changes.items():
        if key in parameters:
            parameters[key] = _changed(parameters[key], value, f"{where}: {key}")
        else:
            _set(document, key, value, where)


def _set(document: dict[str, Any], key: str, value: Any, where: str) -> None:
    *above, last = key.split(".")
    node: Any = document
    for depth, step in enumerate(above):
        node = _step(node, step, ".".join(above[: depth + 1]), where)
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = _changed(node[int(last)], value, f"{where}: {key}")
    elif isinstance(node, dict) and (above or last in document or last in file_fields(_class(document))):
        node[last] = _changed(
            node.get(last), value, f"{where}: {key}"
        )  # an unknown word below is refused when the chip is built
    else:
        legal = [*document["parameters"], *file_fields(_class(document))] if not above else node
        raise HardwareError(f"{where}: no parameter or field '{key}'; {nearest(last, map(str, legal))}")


def _changed(old: Any, value: Any, place: str) -> Any:
    """Return the value that an override asks for: its own, or for `x2` what the file says times two."""
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return as_stated(old, value)
    factor = float(match[1])
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        product = old * factor
        return int(product) if isinstance(old, int) and product.is_integer() else product
    if isinstance(old, str) and (amount := _AMOUNT.fullmatch(old)):
        return f"{float(amount[1]) * factor!r} {amount[2]}"
    if isinstance(old, str) and not _QUANTITY.match(old):
        return f"{match[1]} * ({old})"
    raise HardwareError(f"{place}: '{value}' multiplies one number; the file says {old!r}"[:200])


def _step(node: Any, step: str, path: str, where: str) -> Any:
    if isinstance(node, dict) and step in node:
        return node[step]
    if isinstance(node, list) and step.isdigit() and int(step) < len(node):
        return node[int(step)]
    legal = list(node) if isinstance(node, dict) else []
    raise HardwareError(f"{where}: {path}: no such field; {nearest(step, map(str, legal))}")


def _chip(document: dict[str, Any], where: str) -> Any:
    cls = _class(document)
    values = {k: _scalar(v, {}, f"{where}: parameters.{k}") for k, v in _parameters(document, where).items()}
    data = {k: v for k, v in document.items() if k not in ("kind", "aliases", "parameters")}
    resolved = _resolved(cls, None, data, values, where, ())
    if "parameters" in file_fields(cls):
        resolved["parameters"] = {k: _bare(v) for k, v in values.items()}
    return build(cls, resolved, where=where, error=HardwareError)


def _class(document: Mapping[str, Any]) -> Any:
    module, name = _KINDS[document["kind"]]
    return getattr(importlib.import_module(module, __package__), name)


def _parameters(document: dict[str, Any], where: str) -> Mapping[str, Any]:
    found = document["parameters"]
    if not isinstance(found, dict):
        raise HardwareError(f"{where}: parameters: expected 'name: value' pairs, found {found!r}")
    return found


@functools.cache
def _registry() -> Any:
    from pint import UnitRegistry

    registry: Any = UnitRegistry(None)
    registry.load_definitions(str(Path(__file__).parent / "units.txt"))
    return registry


def quantity(text: str, unit: str, *, where: str) -> float:
    """Return a quantity as a number of the given unit.

    >>> quantity("16 MiB", "byte", where="example")
    16777216.0
    >>> quantity("3 GHz", "byte/second", where="example")
    Traceback (most recent call last):
    einsum_cascade.errors.HardwareError: example: expected a quantity like '400 GiB/s', found '3 GHz'
    """
    return _in_unit(_scalar(text, {}, where), unit, text, where)


def _scalar(value: Any, names: Mapping[str, Any], where: str) -> Any:
    """Return a number, or a pint quantity, for what a file or an override says."""
    from pint.errors import PintError

    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise HardwareError(f"{where}: expected a number, a quantity or an expression, found {value!r}")
    if isinstance(value, str) and _QUANTITY.match(value):
        try:
            return _literal(value)
        except (PintError, ValueError, SyntaxError, TypeError, AttributeError) as e:
            reason = str(e).splitlines()[0] if str(e) else "not a quantity"
            message = f"{where}: '{value}' is not a quantity: {reason}; units: KiB, MiB, GB/s, MHz, pJ, mm^2"
            raise HardwareError(message) from None
    try:
        return evaluate_expression(value, {"inf": math.inf, **names}, where=where, error=HardwareError)
    except PintError as e:
        raise HardwareError(f"{where}: '{value}': {e}") from None


# Of the quantities of a file few change from one chip of a sweep to the next.
@functools.lru_cache(maxsize=4096)
def _literal(text: str) -> Any:
    return _registry().Quantity(text)


@functools.lru_cache(maxsize=4096)
def _amount(text: str, unit: str, where: str) -> float:
    """Return a quantity that names nothing of its file as a number of the given unit."""
    return _in_unit(_scalar(text, {}, where), unit, text, where)


def _in_unit(value: Any, unit: str, text: Any, where: str) -> float:
    from pint.errors import DimensionalityError

    example = _EXAMPLES.get(unit, f"1 {unit}")
    if value == math.inf:
        return math.inf
    if not hasattr(value, "to"):
        raise HardwareError(f"{where}: {text} has no unit; write the unit: '{example}'")
    try:
        return float(value.to(unit).magnitude)
    except DimensionalityError:
        raise HardwareError(f"{where}: expected a quantity like '{example}', found '{text}'") from None


def _bare(value: Any) -> Any:
    return float(value.to_base_units().magnitude) if hasattr(value, "to_base_units") else value


def _resolved(
    hint: Any, unit: str | None, data: Any, names: Mapping[str, Any], where: str, path: tuple[str, ...]
) -> Any:
    """Return the data of a file with quantities and expressions replaced by numbers, as the types ask."""
    mark, kind = unit_of(hint)
    unit = mark.name if mark else unit
    inner = dataclass_of(kind)
    if inner and isinstance(data, Mapping):
        fields = file_fields(inner)
        return {
            k: _resolved(fields[k].type, fields[k].unit, v, names, where, (*path, k)) if k in fields else v
            for k, v in data.items()
        }
    element = element_type(kind)
    if element is not None and isinstance(data, Mapping):
        return {k: _resolved(element, unit, v, names, where, (*path, str(k))) for k, v in data.items()}
    if element is not None and isinstance(data, (list, tuple)):
        return [_resolved(element, unit, v, names, where, (*path, str(i))) for i, v in enumerate(data)]
    place = f"{where}: {'.'.join(path)}"
    if unit and isinstance(data, (str, int, float)):
        if isinstance(data, str) and _QUANTITY.match(data):
            return _amount(data, unit, place)
        return _in_unit(_scalar(data, names, place), unit, data, place)
    if isinstance(data, (str, bool)) and _is_number(kind):  # true is no number, though Python counts with it
        value = _scalar(data, names, place)
        if hasattr(value, "to"):
            raise HardwareError(f"{place}: expected a plain number, found '{data}'")
        return int(value) if isinstance(value, float) and value.is_integer() and kind is int else value
    return data


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or kind == int | None or kind == float | None or kind == int | float
