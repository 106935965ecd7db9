"""The folder of a sweep: one JSON line a point, append-only and locked, and a manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from einsum_cascade.errors import DataError

POINTS, MANIFEST, LOCK = "points.jsonl", "manifest.json", ".lock"
# What is written reaches the disk at least this often; a kill loses nothing, a power cut this much.
_SYNC_S = 5.0


def key_of(point_json: str, context: str) -> str:
    r"""Return the key of a point: SHA-256 of the point and of what else its result depends on.

    >>> key_of('{"x":1}', "model 1") == hashlib.sha256(b'model 1\n{"x":1}').hexdigest()
    True
    """
    return hashlib.sha256(f"{context}\n{point_json}".encode()).hexdigest()


# One encoder each: json.dumps would make a new one for every point.
_sorted = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode
_as_given = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no blanks.

    >>> canonical({"b": 1, "a": "4 MiB"})
    '{"a":"4 MiB","b":1}'
    """
    return _sorted(value)


def canonical_points(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the canonical text of many points, given as one list of values a column.

    An axis has few values, so each is encoded once and then only put together.

    >>> canonical_points({"b": [1, 2], "a": ["x", "x"]})
    ['{"a":"x","b":1}', '{"a":"x","b":2}']
    """
    parts = []
    for name in sorted(columns):
        head = f"{_sorted(name)}:"
        # 1, 1.0 and True are equal but not written alike, nor are 0.0 and -0.0: repr tells them apart.
        written: dict[tuple[type, str], str] = {}
        texts = []
        for value in columns[name]:
            key = (value.__class__, repr(value))
            if key not in written:
                written[key] = head + _sorted(value)
            texts.append(written[key])
        parts.append(texts)
    return ["{" + ",".join(texts) + "}" for texts in zip(*parts, strict=True)]


class Store:
    """The points of one folder while it is locked; made by `opened`.

    Attributes:
        folder: where it lives.
        saved: complete lines in the file.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._synced = time.monotonic()
        self.saved = self._repair()

    def _repair(self) -> int:
        """Cut off a last line that a kill has torn, and return the number of complete ones."""
        lines = end = position = 0
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while block := os.read(self._descriptor, 1 << 22):
            lines += block.count(b"\n")
            if (last := block.rfind(b"\n")) >= 0:
                end = position + last + 1
            position += len(block)
        if end < position:
            os.ftruncate(self._descriptor, end)
        return lines

    def append(self, lines: bytes) -> None:
        """Write complete lines at the end of the file.

        Raises:
            DataError: the disk is full or the file may not grow; every complete line so far is kept.
        """
        done = 0
        try:
            while done < len(lines):
                done += os.write(self._descriptor, lines[done:])
            if time.monotonic() - self._synced > _SYNC_S:
                self.sync()
        except OSError as error:
            self._drop_torn(lines[:done])
            raise self._full(error) from None
        self.saved += lines.count(b"\n")

    def _drop_torn(self, written: bytes) -> None:
        whole = written.rfind(b"\n") + 1
        self.saved += written.count(b"\n")
        with contextlib.suppress(OSError):  # a torn line is also cut off when the folder is opened again
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - (len(written) - whole))

    def _full(self, error: OSError) -> DataError:
        return DataError(
            f"{self.folder / POINTS}: cannot write: {error.strerror}; {self.saved:,} points are saved, "
            "and the same command goes on from there"
        )

    def sync(self) -> None:
        """Have everything written so far on the disk.

        Raises:
            DataError: the disk refuses.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._full(error) from None
        self._synced = time.monotonic()

    def lines(self) -> Iterator[bytes]:
        """Yield every line."""
        with (self.folder / POINTS).open("rb") as file:
            yield from file


@contextlib.contextmanager
def opened(folder: str | Path) -> Iterator[Store]:
    """Give the store in a folder, made if need be, to this process alone.

    A second run into the same folder waits for the first, and then finds its points done.

    Raises:
        DataError: the folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"{folder}: cannot write here: {error.strerror}; choose another folder") from None
    try:
        _acquire(lock, folder)
        descriptor = os.open(folder / POINTS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        os.close(lock)
        raise DataError(f"{folder / POINTS}: cannot write: {error.strerror}") from None
    try:
        store = Store(folder, descriptor)
        yield store
        store.sync()
    finally:
        os.close(descriptor)
        os.close(lock)


def _acquire(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder}: another run writes here; waiting until it has finished", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


def records(lines: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Yield key and content of every line; a damaged one is passed over, so its point is computed again.

    >>> [key for key, _ in records([b'{"key":"k","point":{},"result":{}}\n', b'{"key":"t'])]
    ['k']
    """
    for block in _blocks(lines):
        try:
            found = json.loads(b"[" + b",".join(block) + b"]")
        except ValueError:
            found = [_read(line) for line in block]
        for record in found:
            if isinstance(record, dict) and {"key", "point", "result"} <= record.keys():
                yield record["key"], record


def _blocks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines by the thousand: one call of the parser for many is three times as fast."""
    iterator = iter(lines)
    while block := list(itertools.islice(iterator, 1000)):
        yield block


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def line_of(key: str, point_json: str, result: Mapping[str, Any]) -> str:
    r"""Return the line of a point.

    >>> line_of("k", '{"x":1}', {"latency_s": 0.5})
    '{"key":"k","point":{"x":1},"result":{"latency_s":0.5}}\n'
    """
    return f'{{"key":"{key}","point":{point_json},"result":{_as_given(result)}}}\n'


def write_atomically(path: Path, text: str | bytes) -> None:
    """Replace a file, so that a reader sees the old or the new one and never a part.

    Raises:
        DataError: the file cannot be written.
    """
    data = text.encode() if isinstance(text, str) else text
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        kept = f"; the points are saved in {POINTS}" if (path.parent / POINTS).exists() else ""
        raise DataError(f"{path}: cannot write: {error.strerror}{kept}") from None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write what was swept, by which model, and whether the table is whole."""
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def manifest_in(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder; empty where it holds none yet.

    Raises:
        DataError: it cannot be read.
    """
    return read_manifest(folder) if (folder / MANIFEST).exists() else {}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a sweep.

    Raises:
        DataError: the folder holds no sweep.
    """
    path = Path(folder) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no sweep here (no {MANIFEST}); run cascade sweep SPEC.yaml --out {folder}"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not the manifest of a sweep")
    return found
