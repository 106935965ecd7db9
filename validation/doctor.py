"""Facts about the installation: versions, name clashes, compiler, interpreter, GPU."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import Any

from einsum_cascade import foreign_neighbours

LIBRARIES = ("numpy", "networkx", "sympy", "pandas", "matplotlib", "lark", "pydantic", "torch", "triton")
PACKAGES = ("einsum_cascade", "simulator", "mappings", "kernels", "validation")


def examine() -> dict[str, Any]:
    """Return what was found, as rows of what, found and ok, with the clashes of package names."""
    clashes = foreign_neighbours()
    facts = [
        _fact("python", f"{platform.python_version()} on {platform.machine()}", sys.version_info >= (3, 11))
    ]
    facts += [_fact(name, *_version(name)) for name in LIBRARIES]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = spec.origin if spec and spec.origin else "not found"
        facts.append(_fact(f"package {name}", where, spec is not None and name not in clashes))
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    facts.append(_fact("C compiler", compiler or "none: torch.compile cannot be timed", True))
    interpreter = importlib.util.find_spec("triton.runtime.interpreter") if _has("triton") else None
    facts.append(
        _fact("Triton interpreter", "present" if interpreter else "none: kernels cannot be checked", True)
    )
    gpu = _gpu()
    facts.append(
        _fact("GPU", gpu or "none: kernels run in the interpreter, nothing is measured on a GPU", True)
    )
    return {"ok": all(f["ok"] for f in facts), "facts": facts, "clashes": clashes, "gpu": gpu}


def _fact(what: str, found: str, ok: bool) -> dict[str, Any]:
    return {"what": what, "found": found, "ok": ok}


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _version(name: str) -> tuple[str, bool]:
    try:
        return metadata.version(name), True
    except metadata.PackageNotFoundError:
        return "not installed", name in ("torch", "triton")  # the kernels extra is optional


def _gpu() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    lines = found.stdout.strip().splitlines()
    return lines[0] if found.returncode == 0 and lines else None
