"""Where results come from: the version of the model, the commit, and the contents of input files."""

from __future__ import annotations

import functools
import hashlib
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("einsum_cascade", "mappings", "simulator")
_DATA = frozenset({".py", ".lark", ".cascade", ".yaml", ".csv", ".txt"})
# What only shows or stores results does not change them.
_BESIDE = frozenset({"cli.py", "gna_cli.py", "terminal.py", "plots.py", "draw.py", "printer.py"})
_SWEEP = _ROOT / "simulator" / "dse"


@functools.cache
def model_version() -> str:
    """Return the package version and a digest of all code and data that a result depends on.

    Results of another version are never taken for those of this one.

    >>> model_version().startswith("0.")
    True
    """
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.suffix in _DATA and path.name not in _BESIDE and _counts(path):
                digest.update(f"{path.relative_to(_ROOT)}\0".encode())
                digest.update(path.read_bytes())
    return f"{metadata.version('einsum-cascade')}+{digest.hexdigest()[:16]}"


def _counts(path: Path) -> bool:
    return not path.is_relative_to(_SWEEP) or path.is_relative_to(_SWEEP / "points")


@functools.cache
def commit() -> str:
    """Return the commit of the source tree, `-dirty` behind it where files differ; empty outside a repository."""
    if not (_ROOT / ".git").exists():
        return ""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def fingerprint(value: Any) -> str:
    """Return a text that changes when an input does: a file counts by its content, an object by its repr.

    >>> fingerprint("fusemax")
    'fusemax'
    """
    if isinstance(value, (str, Path)):
        path = Path(value)
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(value)
        except (OSError, ValueError):
            return str(value)
    return hashlib.sha256(repr(value).encode()).hexdigest()
