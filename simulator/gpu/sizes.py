"""The sizes that a kernel described as grids has: what a call may leave out, and what it cannot change."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from einsum_cascade.errors import DataError, MappingError
from mappings.expression import evaluate_expression, names_in
from mappings.gpu import KernelMapping
from mappings.grids import FUNCTIONS, value_of

from .call import BYTES, SIZES, Call, make_call

_REMARK = re.compile(r"(\w+)=([\d.]+)\b")
_ZERO = ("", "0", "0.0", "None")


def call_of(mapping: KernelMapping, sizes: Mapping[str, Any], *, remarks: str | None = None) -> Call:
    """Return the call of a kernel: what its mapping says of sizes that are not given stands for them.

    Args:
        remarks: of a row of a table, `name=value` separated by semicolons, some of which may be sizes of this kernel.
            A table has a cell for every size, 0 or not; who asks for a prediction gives those that matter.

    Raises:
        ModelError: a size that the kernel does not have or that changes nothing, one that is missing or out of range,
            or no whole number.
    """
    if not mapping.grids:
        return make_call(**sizes)
    own = [n for n in mapping.parameters if n not in SIZES]
    told = {n: v for n, v in _REMARK.findall(remarks or "") if n in own}
    read = _read(mapping)
    if "seq_kv" in read and not sizes.get("seq_kv"):
        read = read | {"seq_q"}  # it says how many keys there are
    known = {n: text for n, text in mapping.parameters.items() if n in SIZES}
    unread = {n: 1 for n in ("batch", "heads", "seq_q", "head_dim") if n not in read}
    given = {
        n: v for n, v in sizes.items() if not _is_left_out(n, v, read, known, of_table=remarks is not None)
    }
    counted = {n: v for n, v in given.items() if n in read or n not in SIZES}
    call = make_call(parameters=own, **(unread | known | told | counted))
    if remarks is None:
        _check_unread(mapping, call, make_call(parameters=own, **(unread | known | given)), {*given} - read)
    return _completed(mapping, call)


def words_of(call: Call) -> dict[str, Any]:
    """Return a call as the words that `predict` and `call_of` take."""
    return {n: getattr(call, n) for n in SIZES} | dict(call.parameters)


@functools.lru_cache(maxsize=1024)
def names_of(call: Call) -> Mapping[str, float]:
    """Return the sizes of a call by the names that expressions use."""
    names = {n: getattr(call, n) for n in ("batch", "heads", "seq_q", "seq_kv", "head_dim", "window")}
    own = {
        "kv_heads": call.key_heads,
        "group": call.group,
        "causal": int(call.causal),
        "word": BYTES[call.dtype],
    }
    return MappingProxyType({n: float(v) for n, v in (names | own | dict(call.parameters)).items()})


@functools.lru_cache(maxsize=256)
def _read(mapping: KernelMapping) -> frozenset[str]:
    """Return the sizes on which a kernel's work depends."""
    where = mapping.name
    texts = [
        mapping.useful,
        *mapping.needs.values(),
        *(t for n, t in mapping.parameters.items() if n not in SIZES),
    ]
    grids = (g.reads_names(where=where) for g in mapping.grids)
    read = frozenset({"dtype"}).union(*grids, *(names_in(text, where=where) for text in texts))
    if "group" in read or "kv_heads" in read:
        read |= {"heads", "kv_heads"}
    # Some sizes choose the tile.
    chosen = {n for n in ("head_dim", "causal", "window") if len({getattr(t, n) for t in mapping.tiles}) > 1}
    return read | chosen


def _is_left_out(
    name: str, value: Any, read: Collection[str], known: Collection[str], *, of_table: bool
) -> bool:
    """Return whether a size is zero only because the kernel has none."""
    if name not in SIZES or str(value) not in _ZERO:
        return False
    return (name not in read and name != "causal") or (of_table and name in known)


def _check_unread(mapping: KernelMapping, call: Call, asked: Call, names: Collection[str]) -> None:
    """Refuse sizes that would change nothing: somebody who gives one takes the kernel for another."""
    for name in sorted({*names} & SIZES):
        only, found = _meant(call, name), _meant(asked, name)
        if found != only and not (name == "seq_q" and found == asked.seq_kv):
            raise DataError(f"{name}={found}: {mapping.name} knows {name}={only} only; leave it out")


def _meant(call: Call, name: str) -> Any:
    """Return what a word of a call comes to."""
    if name == "window":
        return call.window if call.windowed else 0
    defaults = {
        "kv_heads": call.key_heads,
        "kv_dtype": call.kv_dtype or call.dtype,
        "causal": int(call.causal),
    }
    return defaults.get(name, getattr(call, name))


def _completed(mapping: KernelMapping, call: Call) -> Call:
    """Return the call with every size of its own, checked."""
    found = dict(call.parameters)
    for name, text in mapping.parameters.items():
        if name not in found and name not in SIZES:
            value = value_of(text, {**names_of(call), **found}, where=f"{mapping.name}: parameters.{name}")
            found[name] = float(value)
        elif found.get(name, 0.0) < 0:
            raise DataError(f"{name}: expected a number of at least 0, found {found[name]:g}")
    whole = replace(call, parameters=tuple(sorted(found.items())))
    for words, text in mapping.needs.items():
        left = evaluate_expression(text, names_of(whole), where=f"{mapping.name}: needs", functions=FUNCTIONS)
        if not left >= 0:
            raise MappingError(f"{mapping.name}: expected {words}; found {_told(text, whole, mapping.name)}")
    return whole


def _told(text: str | float, call: Call, where: str) -> str:
    names = names_of(call)
    return ", ".join(f"{n}={names[n]:g}" for n in sorted(names_in(text, where=where) & {*names}))
