"""Arrays in files: inputs and outputs of a cascade as .npz."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError


def read_arrays(path: str | Path) -> dict[str, Any]:
    """Return the arrays of an .npz file by name.

    Raises:
        DataError: no such file, or not an .npz file of plain arrays.
    """
    try:
        # Pickled objects could run code when they are read.
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: expected an .npz file with one array per input")
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError, MemoryError):
        raise DataError(f"{path}: expected an .npz file with one array per input") from None


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to an .npz file under their names.

    Raises:
        DataError: the file cannot be written.
    """
    # In memory first: an archive is written back and forth, which a pipe or /dev/null cannot.
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **arrays)
    try:
        Path(path).write_bytes(archive.getvalue())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
