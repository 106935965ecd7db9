"""The library of mappings, and the way from a file of your own to a mapping."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from einsum_cascade.errors import MappingError, nearest

from .binding import WAIT, Binding, SpatialMapping
from .loopnest import LoopNest
from .reader import as_stated, build, dump_yaml, read_yaml
from .schema import Origin, file_fields, marked

LIBRARY = Path(__file__).parent / "library"
ENDINGS = (".yaml", ".yml")
_KINDS = ("nest", "binding", "gpu")


def load(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Any:
    """Return a mapping of the library, or of a file of your own, with fields set.

    A file holds a nest and a binding (two documents, a `SpatialMapping`), a binding whose field `nest` names the file
    with the nest, or a mapping of a GPU kernel (a `KernelMapping`).

    Args:
        name_or_path: a name in the library, or the path of a YAML file.
        overrides: by part (`P1`) or by the path of a field in the file: `sizes.P1`, `keep.GlobalBuffer.QK`.

    Raises:
        MappingError: no such mapping, a malformed file, or no such field.

    >>> load("fusemax").nest.cascade
    'attention_1pass'
    >>> load("fusemax", {"sizes.P1": 4}).nest.sizes["P1"]
    4
    """
    path = find_mapping(name_or_path)
    if not overrides:
        return _load(str(path), path.stat().st_mtime_ns)
    documents = copy.deepcopy(_documents(str(path), path.stat().st_mtime_ns))
    return _built(documents, str(path), overrides)


def documents_of(mapping: SpatialMapping) -> list[dict[str, Any]]:
    """Return a spatial mapping as the two documents of its file: what `load` reads back."""
    nest, binding = mapping.nest, mapping.binding
    loops = {
        key: {"time": {m: list(names) for m, names in of.time.items()}, "space": list(of.space)}
        for key, of in nest.nests.items()
    }
    keep = {memory: _plain(kept) for memory, kept in binding.keep.items()}
    phases = {
        phase: [{lane: list(items) for lane, items in step.items()} for step in steps]
        for phase, steps in binding.phases.items()
    }
    hold = {p: {memory: _plain(held) for memory, held in of.items()} for p, of in binding.hold.items()}
    copies = {name: {"of": c.of, "readers": list(c.readers)} for name, c in nest.recompute.items()}
    head = {"kind": "nest", "cascade": nest.cascade, "summary": mapping.summary, "source": mapping.source}
    return [
        {
            **{k: v for k, v in head.items() if v},
            "split": {whole: list(parts) for whole, parts in nest.split.items()},
            "sizes": dict(nest.sizes),
            "outer": list(nest.outer),
            "nests": loops,
            **({"recompute": copies} if copies else {}),
        },
        {
            "kind": "binding",
            "hardware": binding.hardware,
            "keep": keep,
            **({"hold": hold} if hold else {}),
            "phases": phases,
            **_spills(binding),
        },
    ]


def _spills(binding: Binding) -> dict[str, Any]:
    found = {
        memory: {"tensors": list(of.tensors), **({"need": of.need} if of.need else {})}
        for memory, of in binding.spill.items()
    }
    return {"spill": found} if found else {}


def _plain(kept: Any) -> Any:
    if isinstance(kept, Mapping):
        return {key: list(tensors) for key, tensors in kept.items()}
    return kept if isinstance(kept, str) else list(kept)


def save(mapping: SpatialMapping, path: str | Path) -> None:
    """Write a spatial mapping to a file that `load` accepts.

    Raises:
        MappingError: the place cannot be written, or its name does not end in .yaml.
    """
    target = Path(path)
    if target.suffix not in ENDINGS:
        raise MappingError(f"{target}: expected a file that ends in {', '.join(ENDINGS)}")
    try:
        target.write_text(dump_yaml(documents_of(mapping)), encoding="utf-8")
    except OSError as e:
        raise MappingError(f"{target}: cannot be written: {e.strerror}") from None


def find_mapping(name_or_path: str | Path) -> Path:
    """Return the file of a mapping, by name in the library or by path."""
    text = str(name_or_path)
    known = library()
    if text in known:
        return known[text]
    if text.endswith(ENDINGS):
        path = Path(text)
        if not path.is_file():
            raise MappingError(f"{text}: no such mapping file")
        return path
    raise MappingError(f"unknown mapping '{text}'; {nearest(text, known)}")


@functools.cache
def library() -> Mapping[str, Path]:
    """Return the files of the library by name; a folder is part of the name (`gpu/attention`)."""
    return {str(p.relative_to(LIBRARY).with_suffix("")): p for p in sorted(LIBRARY.rglob("*.yaml"))}


def names(kind: str | None = None) -> tuple[str, ...]:
    """Return the mappings of the library, optionally of one kind (`spatial`, `gpu`)."""
    return tuple(e["name"] for e in entries(kind))


def entries(kind: str | None = None) -> tuple[dict[str, str], ...]:
    """Return name, kind, cascade, summary and source of every mapping of the library."""
    out = []
    for name, path in library().items():
        document = _documents(str(path), path.stat().st_mtime_ns)[0]
        found = "gpu" if document.get("kind") == "gpu" else "spatial"
        if kind in (None, found):
            texts = {k: str(document.get(k, "")) for k in ("cascade", "summary", "source")}
            out.append({"name": name, "kind": found, **texts})
    return tuple(out)


def descriptions() -> tuple[tuple[str, str, str], ...]:
    """Return (name, summary, source) of every mapping of the library."""
    return tuple((e["name"], e["summary"], e["source"]) for e in entries())


@functools.lru_cache(maxsize=256)
def _documents(path: str, modified_ns: int) -> tuple[dict[str, Any], ...]:
    documents = read_yaml(path)
    for i, document in enumerate(documents):
        if not isinstance(document, dict) or document.get("kind") not in _KINDS:
            found = document.get("kind") if isinstance(document, dict) else document
            raise MappingError(
                f"{path}: document {i + 1}: kind: expected one of {', '.join(_KINDS)}, found {found!r}"
            )
    return tuple(documents)


@functools.lru_cache(maxsize=256)
def _load(path: str, modified_ns: int) -> Any:
    return _built(_documents(path, modified_ns), path, {})


def _built(documents: tuple[dict[str, Any], ...], path: str, overrides: Mapping[str, Any]) -> Any:
    kinds = [d["kind"] for d in documents]
    if "gpu" in kinds:
        if len(documents) != 1:
            raise MappingError(
                f"{path}: a GPU mapping stands alone in its file, found {len(documents)} documents"
            )
        if overrides:
            raise MappingError(f"{path}: fields of a GPU mapping are set in the call, not here")
        return _gpu(path)
    if kinds.count("binding") != 1 or kinds.count("nest") > 1:
        raise MappingError(f"{path}: expected one nest and one binding, found {', '.join(kinds)}")
    given, overrides = overrides, {_place(k): v for k, v in overrides.items()}
    loops = {k: v for k, v in overrides.items() if k.partition(".")[0] in file_fields(LoopNest)}
    bound = documents[kinds.index("binding")]
    _override(bound, {k: v for k, v in overrides.items() if k not in loops}, path)
    binding = _document(Binding, bound, path)
    if "nest" in kinds:
        _override(documents[kinds.index("nest")], loops, path)
        nest = _document(LoopNest, documents[kinds.index("nest")], path)
    elif binding.nest:
        nest = load(binding.nest, loops).nest
    else:
        raise MappingError(f"{path}: the binding needs a nest: a second document, or 'nest: NAME'")
    first = documents[0]
    texts = (str(first.get(word, "")) for word in ("summary", "source"))
    return marked(SpatialMapping(nest, binding, Path(path).stem, *texts), Origin(path, tuple(given.items())))


def _place(key: str) -> str:
    """Return the path of a field; a bare word that is no field is a part of a rank: `P1` for `sizes.P1`."""
    known = "." in key or key in file_fields(LoopNest) or key in file_fields(Binding)
    return key if known else f"sizes.{key}"


def _override(document: dict[str, Any], changes: Mapping[str, Any], path: str) -> None:
    """Set fields of a document in place; what no mapping has is refused when the object is built."""
    for key, value in changes.items():
        *above, last = key.split(".")
        node: Any = document
        for step in above:
            node = node.setdefault(step, {}) if isinstance(node, dict) else _item(node, step, key, path)
        if isinstance(node, dict):
            node[last] = as_stated(node.get(last), value)
        else:
            node[int(last)] = as_stated(_item(node, last, key, path), value)


def _item(node: Any, step: str, key: str, path: str) -> Any:
    if isinstance(node, list) and step.isdigit() and int(step) < len(node):
        return node[int(step)]
    raise MappingError(f"{Path(path).name}: no field '{key}': there is no '{step}'")


def _document(cls: type, document: Mapping[str, Any], path: str) -> Any:
    data = {k: v for k, v in document.items() if k != "kind"}
    if isinstance(data.get("phases"), Mapping):
        data["phases"] = {k: _with_waits(v) for k, v in data["phases"].items()}
    return build(cls, data, where=f"{Path(path).name} ({document['kind']})")


def _with_waits(steps: Any) -> Any:
    """Return the steps of a phase with waits that are plain numbers as the expressions that they are."""
    if not isinstance(steps, list):
        return steps
    return [_with_wait(step) if isinstance(step, Mapping) else step for step in steps]


def _with_wait(step: Mapping[str, Any]) -> Mapping[str, Any]:
    waits = step.get(WAIT)
    if not isinstance(waits, list):
        return step
    return {**step, WAIT: [str(w) if type(w) in (int, float) else w for w in waits]}


def _gpu(path: str) -> Any:
    # Kernels have their own room; it is loaded only when a file asks for it.
    return importlib.import_module(".gpu", __package__).read_kernel_mapping(path)
