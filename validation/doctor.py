"""Facts about the installation: versions, name clashes, compiler, interpreter, GPU."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

from einsum_cascade import foreign_neighbours

LIBRARIES = ("numpy", "networkx", "sympy", "pandas", "matplotlib", "lark", "pydantic", "torch", "triton")
# How PyTorch's wheels without CUDA call their version.
CPU_BUILD = "+cpu"
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
    gpu = _gpu()
    facts += _launcher(gpu)
    interpreter = importlib.util.find_spec("triton.runtime.interpreter") if _has("triton") else None
    facts.append(
        _fact("Triton interpreter", "present" if interpreter else "none: kernels cannot be checked", True)
    )
    if gpu and _version("torch")[0].endswith(CPU_BUILD):
        facts.append(_fact("GPU", f"{gpu}; but torch is a build for CPUs, which does not see it", False))
    else:
        absent = "none: kernels run in the interpreter, nothing is measured on a GPU"
        facts.append(_fact("GPU", gpu or absent, True))
    return {"ok": all(f["ok"] for f in facts), "facts": facts, "clashes": clashes, "gpu": gpu}


def _launcher(gpu: str | None) -> list[dict[str, Any]]:
    """Return what Triton builds its launcher with when it first meets a GPU: without it, nothing can be measured there.

    Source: `triton/runtime/build.py`, which asks CC, then gcc, then clang, and includes Python's headers.
    """
    compiler = os.environ.get("CC") or next((c for c in ("gcc", "clang", "cc") if shutil.which(c)), None)
    scheme = "posix_prefix" if os.name == "posix" else sysconfig.get_default_scheme()
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    lost = "Triton cannot launch on a GPU"
    return [
        _fact(
            "C compiler",
            compiler or f"none: {lost}, torch.compile cannot be timed",
            compiler is not None or gpu is None,
        ),
        _fact(
            "Python headers",
            str(header.parent) if header.is_file() else f"none ({header}): {lost}",
            header.is_file() or gpu is None,
        ),
    ]


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
