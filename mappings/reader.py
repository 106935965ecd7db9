"""The one way from a YAML file to frozen dataclasses; errors say file and path of the bad field."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from einsum_cascade.errors import MappingError, ModelError, glimpse, nearest

from .ranges import out_of_range
from .schema import alternatives, dataclass_of, element_type, file_fields, legal_keys

T = TypeVar("T")

_MOST_BYTES = 4 << 20  # a description that a person writes is a few KiB; anything larger is the wrong file


def read_text(path: Path, *, error: type[ModelError] = MappingError) -> str:
    """Return the text of a file.

    Raises:
        ModelError: of the class `error`; the file is missing, empty, too large or not text.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise error(
                f"{path}: {path.stat().st_size} bytes are too many for a description; is it the right file?"
            )
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except UnicodeDecodeError as e:
        raise error(f"{path}: not a text file (byte {e.start} is not UTF-8)") from None
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror}") from None
    if "\x00" in text:
        raise error(f"{path}: not a text file (it holds a zero byte)")
    if not text.strip():
        raise error(f"{path}: the file is empty")
    return text


def read_yaml(path: str | Path, *, error: type[ModelError] = MappingError) -> list[Any]:
    """Return the documents of a YAML file.

    YAML 1.2: `1e9` is a number, `no` is a word, and a key given twice is an error.

    Raises:
        ModelError: of the class `error`, with file and line; the file is missing, empty, binary or not YAML.
    """
    path = Path(path)
    return parse_yaml(read_text(path, error=error), str(path), error=error)


def parse_yaml(text: str, where: str, *, error: type[ModelError] = MappingError) -> list[Any]:
    r"""Return the documents of a YAML text.

    >>> parse_yaml("a: 1e9\n---\nb: no", "example")
    [{'a': 1000000000.0}, {'b': 'no'}]
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        documents = [d for d in YAML(typ="safe", pure=True).load_all(text) if d is not None]
    except MarkedYAMLError as e:
        raise error(_yaml_message(e, where)) from None
    except (YAMLError, ValueError, RecursionError) as e:
        first = (str(e) or type(e).__name__).splitlines()[0]
        raise error(f"{where}: not legal YAML: {first}") from None
    except TypeError:
        raise error(f"{where}: a key is a list or a table; expected a word before ':'") from None
    if not documents:
        raise error(f"{where}: the file holds comments only")
    return documents


def dump_yaml(documents: Iterable[Any]) -> str:
    """Return documents as a YAML text that `parse_yaml` reads back.

    >>> parse_yaml(dump_yaml([{"a": [1, 2]}, {"b": "x"}]), "example")
    [{'a': [1, 2]}, {'b': 'x'}]
    """
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False
    out = io.StringIO()
    yaml.dump_all(list(documents), out)
    return out.getvalue()


def _yaml_message(e: Any, where: str) -> str:
    mark = e.problem_mark or e.context_mark
    problem = (e.problem or e.context or "not legal YAML").strip().splitlines()[0]
    place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
    first = e.context_mark
    if type(e).__name__ == "DuplicateKeyError" and first is not None:
        return f"{place}: {problem} (in the block that starts at line {first.line + 1}); give every key once"
    return f"{place}: {problem}"


def as_stated(old: Any, value: Any) -> Any:
    """Return what an override puts in the place of a value: where that is a list, a text is one too.

    >>> as_stated(["B", "H"], "H, B"), as_stated([256, 256], "[128,512]"), as_stated("B", "H,B")
    (['H', 'B'], [128, 512], 'H,B')
    """
    if not isinstance(old, (list, tuple)) or not isinstance(value, str):
        return value
    inside = value.strip()
    if inside.startswith("[") and inside.endswith("]"):
        inside = inside[1:-1]
    words = [word.strip() for word in inside.split(",")] if inside.strip() else []
    return [int(word) if word.isdigit() else word for word in words]


@functools.cache
def _adapter(cls: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    # Inside a tuple, since pydantic lends a configuration to plain dataclasses only from the outside.
    return TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid"))


def build(cls: type[T], data: Any, *, where: str, error: type[ModelError] = MappingError) -> T:
    """Return an object of a plain dataclass, checked field by field, nested dataclasses included.

    Fields are given by the words of the file (`capacity`), not by those of the object (`capacity_bytes`).

    Args:
        cls: a dataclass; pydantic is not needed in it.
        data: what a YAML document holds.
        where: what stands before the path in an error, for example the file.
        error: the class of an error.

    Raises:
        ModelError: of the class `error`, with the path of the first bad field and the nearest legal word.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Loop:
    ...     rank: str
    ...     size: int
    >>> build(Loop, {"rank": "M", "size": 4}, where="example")
    Loop(rank='M', size=4)
    >>> build(Loop, {"rank": "M", "sise": 4}, where="example")
    Traceback (most recent call last):
    einsum_cascade.errors.MappingError: example: sise: unknown field; did you mean 'size'?
    """
    from pydantic import ValidationError

    kind: Any = cls
    if not isinstance(data, Mapping):
        raise error(
            f"{where}: expected fields such as '{next(iter(file_fields(kind)))}: ...', found {glimpse(data)}"
        )
    _check_words(cls, data, (), where, error)
    renamed = _renamed(cls, data)
    try:
        checked: tuple[T] = _adapter(kind).validate_python((renamed,))
    except ValidationError as e:
        raise error(_field_message(cls, e.errors(), renamed, where)) from None
    if problem := next(out_of_range(checked[0]), None):
        raise error(f"{where}: {problem}")
    return checked[0]


def _check_words(hint: Any, data: Any, path: tuple[str, ...], where: str, error: type[ModelError]) -> None:
    """Refuse unknown words first: a misspelt field is the better message than the missing one it leaves.

    Truth is no number either, and would be taken for 1.
    """
    inner = dataclass_of(hint)
    if isinstance(data, Mapping):
        fields = file_fields(inner) if inner else None
        for key, value in data.items():
            if not isinstance(key, str):
                place = ".".join((*path, str(key)))
                raise error(f"{where}: {place}: a field name has to be a word, found {glimpse(key)}")
            if fields is not None and key not in fields:
                place = ".".join((*path, key))
                raise error(f"{where}: {place}: unknown field; {nearest(key, fields)}")
            below = fields[key].type if fields else element_type(hint)
            _check_words(below, value, (*path, key), where, error)
    elif isinstance(data, (list, tuple)) and inner is None:
        for i, value in enumerate(data):
            _check_words(element_type(hint), value, (*path, str(i)), where, error)
    elif isinstance(data, bool) and bool not in alternatives(hint) and {int, float} & {*alternatives(hint)}:
        raise error(f"{where}: {'.'.join(path)}: expected a number, found {glimpse(data)}")


def _renamed(hint: Any, data: Any) -> Any:
    """Return the data with the words of the file replaced by the names of the fields."""
    inner = dataclass_of(hint)
    if isinstance(data, Mapping):
        if inner:
            fields = file_fields(inner)
            return {fields[k].name: _renamed(fields[k].type, v) for k, v in data.items()}
        return {k: _renamed(element_type(hint), v) for k, v in data.items()}
    if isinstance(data, (list, tuple)) and inner is None:
        return [_renamed(element_type(hint), v) for v in data]
    return data


def _field_message(cls: type, problems: Sequence[Any], data: Any, where: str) -> str:
    """Return what is wrong with the first bad field; what may be of several kinds is told by all of them.

    pydantic tries every kind and names it in the path: of a list in a table, one says how far into the data it came.
    """
    rest = [(_steps(p, data), p) for p in problems]
    first = rest[0][0]
    rest = [(steps, p) for steps, p in rest if steps[: len(first)] == first]
    deepest = max(len(steps) for steps, _ in rest)
    steps, problem = next((s, p) for s, p in rest if len(s) == deepest)
    words = tuple(_file_word(cls, steps))
    place = ".".join(words)
    if problem["type"] == "missing":
        return f"{where}: {place}: this field is required; {_listed(legal_keys(cls, words[:-1]))}"
    if problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        return f"{where}: {place}: {reason}" if place else f"{where}: {reason}"
    alike = dict.fromkeys(_KINDS.get(p["type"], "") for s, p in rest if s == steps)
    if len(alike) > 1 and "" not in alike:
        return f"{where}: {place}: expected {' or '.join(alike)}, found {glimpse(problem.get('input'))}"
    message = _PLAIN.get(problem["type"], problem["msg"][:1].lower() + problem["msg"][1:])
    return f"{where}: {place}: {message}, found {glimpse(problem.get('input'))}"


def _steps(problem: Any, data: Any) -> tuple[Any, ...]:
    """Return the steps of a path of pydantic's that lead into the data: those that name a kind of it do not."""
    *path, last = problem["loc"][1:] or ("",)
    out = []
    for step in (*path, last):
        try:
            data = data[step]
        except (TypeError, KeyError, IndexError):
            continue
        out.append(step)
    return (*out, last) if problem["type"] == "missing" else tuple(out)


# What pydantic calls by the words of Python.
_PLAIN = {
    "tuple_type": "expected a list such as [P, M]",
    "dict_type": "expected 'name: value' pairs",
    "mapping_type": "expected 'name: value' pairs",
    "dataclass_type": "expected 'name: value' pairs",
}

# The same by kind, where a field takes several.
_KINDS = {
    "string_type": "a word",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "tuple_type": "a list such as [P, M]",
    "dict_type": "'name: value' pairs",
    "mapping_type": "'name: value' pairs",
}


def _file_word(cls: type, loc: tuple[str | int, ...]) -> list[str]:
    """Return a path in the words of the file, given one in the names of the fields."""
    hint: Any = cls
    out = []
    for step in loc:
        inner = dataclass_of(hint)
        if inner:
            field = next((f for f in file_fields(inner).values() if f.name == step), None)
            out.append(field.key if field else str(step))
            hint = field.type if field else None
        else:
            out.append(str(step))
            hint = element_type(hint)
    return out


def _listed(keys: tuple[str, ...]) -> str:
    return f"fields here: {', '.join(keys)}" if keys else "it is missing"
