"""The folder of a sweep: one append-only, locked file of finished batches, and a manifest."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from einsum_cascade import outputs
from einsum_cascade.errors import DataError, glimpse

POINTS, MANIFEST, LOCK = "points.log", "manifest.json", ".lock"
_OLDER = "points.jsonl"
_MARK, _HEAD = b"\xd5sweep1\n", struct.Struct("<8sIQI")
# What is written reaches the disk at least this often; a kill loses nothing, a power cut this much.
_SYNC_S = 5.0


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no blanks.

    >>> canonical({"b": 1, "a": "4 MiB"})
    '{"a":"4 MiB","b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


class Store:
    """The points of one folder while it is locked; made by `opened`.

    The file is a row of records, each a head (a mark, the number of points, the length and the checksum of what
    follows) and a batch of points. A record counts when it is whole, so that whatever a kill leaves is either there or
    not.

    Attributes:
        folder: where it lives.
        saved: points in the file.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._synced = time.monotonic()
        file = self._file()
        found = [(count, end) for count, _, end in _records(file)]
        if not found and not _MARK.startswith(file[: len(_MARK)]):
            raise DataError(f"{folder / POINTS}: not the points of a sweep; choose another folder")
        self.saved = sum(count for count, _ in found)
        # What a kill has torn off stands behind the last whole record.
        os.ftruncate(descriptor, max((end for _, end in found), default=0))

    def _file(self) -> bytes | mmap.mmap:
        size = os.fstat(self._descriptor).st_size
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) if size else b""

    def append(self, data: bytes, count: int) -> None:
        """Write a batch of points at the end of the file.

        Raises:
            DataError: the disk is full or the file may not grow; every batch so far is kept.
        """
        record = _HEAD.pack(_MARK, count, len(data), _checksum(count, data)) + data
        done = 0
        try:
            while done < len(record):
                done += os.write(self._descriptor, record[done:])
            if time.monotonic() - self._synced > _SYNC_S:
                self.sync()
        except OSError as error:
            # Where this fails too, the torn record is cut off when the folder is opened again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - done)
            raise self._full(error) from None
        self.saved += count

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

    def parts(self) -> Iterator[bytes]:
        """Yield every batch."""
        for _, data, _ in _records(self._file()):
            yield data


def saved_in(folder: str | Path) -> int:
    """Return how many points a folder holds, also while a sweep runs."""
    path = Path(folder) / POINTS
    return sum(count for count, _, _ in _records(path.read_bytes())) if path.exists() else 0


def _checksum(count: int, data: bytes) -> int:
    return zlib.crc32(data, count)


def _records(data: bytes | mmap.mmap) -> Iterator[tuple[int, bytes, int]]:
    """Yield number of points, content and end of every whole record; what is damaged between them is passed over."""
    at = data.find(_MARK)
    while 0 <= at <= len(data) - _HEAD.size:
        _, count, length, checksum = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        content = data[at + _HEAD.size : end]
        if len(content) == length and _checksum(count, content) == checksum:
            yield count, content, end
            at = data.find(_MARK, end)
        else:
            at = data.find(_MARK, at + 1)


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
    if (folder / _OLDER).exists():
        os.close(lock)
        raise DataError(
            f"{folder}: the points here ({_OLDER}) are of an earlier release, which this one does not go on from; its "
            f"table can still be read; choose another folder, or delete {_OLDER}"
        )
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


def write_atomically(path: Path, text: str) -> None:
    """Replace a file, so that a reader sees the old or the new one and never a part.

    Raises:
        DataError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of another once it is whole.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with outputs.replacing(path) as temporary:
            yield temporary
    except OSError as error:
        kept = f"; the points are saved in {POINTS}" if (path.parent / POINTS).exists() else ""
        raise DataError(f"{path}: cannot write: {error.strerror or error}{kept}") from None


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
            f"{folder}: no sweep here (no {MANIFEST}); run cascade sweep SPEC.yaml --out {quote(str(folder))}"
        ) from None
    except NotADirectoryError:
        raise DataError(f"{folder}: found a file, expected the folder that cascade sweep wrote") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict) or "axes" not in found:
        raise DataError(f"{path}: not the manifest of a sweep")
    whole: dict[str, Any] = {"derived": {}, "where": [], **found}
    for name, kind in _FIELDS.items():
        if name in whole and not isinstance(whole[name], kind):
            wanted = "a table" if kind is dict else "a list"
            raise DataError(f"{path}: {name}: expected {wanted}, found {glimpse(whole[name])}")
    for name, values in whole["axes"].items():
        if not isinstance(values, (list, dict)):
            raise DataError(f"{path}: axes: {name}: expected a list or a range, found {glimpse(values)}")
    return whole


# Of the manifest, what is read again.
_FIELDS: dict[str, type] = {
    "axes": dict, "derived": dict, "inputs": dict, "where": list, "minimize": list, "maximize": list
}  # fmt: skip
