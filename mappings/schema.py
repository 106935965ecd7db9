"""What a data file may say, read off the dataclass that it becomes: words, units, types."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a field that a file gives as a quantity: `capacity: 16 MiB` for `capacity_bytes`.

    Attributes:
        name: the unit in which the object keeps the number, for example `byte` or `byte/second`.
        key: the word in the file; the empty string means the name of the field.
    """

    name: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object was read; one that was made or changed in Python has none.

    Attributes:
        path: of the file.
        changes: the fields that were set on top of it, as they were given.
    """

    path: str
    changes: tuple[tuple[str, Any], ...] = ()


def marked(read: T, origin: Origin) -> T:
    """Return a frozen object that was just read, with its origin noted in the field of that name."""
    object.__setattr__(read, "origin", origin)
    return read


@dataclass(frozen=True, slots=True)
class FileField:
    """One field of a dataclass as a file sees it."""

    name: str
    key: str
    type: Any
    unit: str | None
    required: bool


@functools.cache
def file_fields(cls: type) -> Mapping[str, FileField]:
    """Return the fields that a file may give for a dataclass, by the word used in the file.

    >>> @dataclass(frozen=True)
    ... class Cache:
    ...     capacity_bytes: typing.Annotated[float, Unit("byte", "capacity")]
    >>> file_fields(Cache)["capacity"].name
    'capacity_bytes'
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    out = {}
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        mark, kind = unit_of(hints[f.name])
        key = (mark.key if mark else "") or f.name
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        out[key] = FileField(f.name, key, kind, mark.name if mark else None, required)
    return types.MappingProxyType(out)


@functools.cache
def unit_of(hint: Any) -> tuple[Unit | None, Any]:
    """Return the mark of an annotation, if it has one, and the bare type.

    >>> unit_of(typing.Annotated[float, Unit("byte")])
    (Unit(name='byte', key=''), <class 'float'>)
    """
    if typing.get_origin(hint) is typing.Annotated:
        marks = [m for m in typing.get_args(hint)[1:] if isinstance(m, Unit)]
        return (marks[0] if marks else None), typing.get_args(hint)[0]
    for part in alternatives(hint):
        mark, kind = unit_of(part) if part is not hint else (None, hint)
        if mark:
            return mark, kind
    return None, hint


@functools.cache
def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a field may be of, None left out.

    >>> alternatives(int | str | None)
    (<class 'int'>, <class 'str'>)
    """
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        return tuple(p for p in typing.get_args(hint) if p is not type(None))
    return (hint,)


@functools.cache
def element_type(hint: Any) -> Any:
    """Return the type of the values of a mapping or sequence type, or None for anything else.

    >>> element_type(tuple[int, ...]), element_type(dict[str, float]), element_type(str)
    (<class 'int'>, <class 'float'>, None)
    """
    for part in alternatives(hint):
        origin, args = typing.get_origin(part), typing.get_args(part)
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(args) == 2:
            return args[1]
        if origin in (tuple, list) and args:
            return args[0]
    return None


@functools.cache
def dataclass_of(hint: Any) -> type | None:
    """Return the dataclass that an annotation stands for, `| None` set aside."""
    for part in alternatives(hint):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return part
    return None


def legal_keys(cls: type, path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the words that a file may use at a path below a dataclass; empty where any word is legal."""
    hint: Any = cls
    for step in path:
        inner = dataclass_of(hint)
        if inner is not None:
            found = file_fields(inner).get(str(step))
            if found is None:
                return ()
            hint = found.type
        else:
            hint = element_type(hint)
    inner = dataclass_of(hint)
    return tuple(file_fields(inner)) if inner else ()
