"""Facts of the machine that measures: its GPU, or its CPU, and the versions that decide how fast a kernel is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from einsum_cascade.errors import KernelError, nearest

DEVICES = ("cpu", "cuda")


def resolve(device: str | None) -> str:
    """Return "cuda" or "cpu": what was asked for if it is there, else the best present.

    Raises:
        KernelError: an unknown device, or a GPU that is not there.
    """
    if device is not None and device not in DEVICES:
        raise KernelError(f"device '{device}': {nearest(device, DEVICES)}")
    import torch

    present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise KernelError("device 'cuda': torch finds no NVIDIA GPU here; use --device cpu")
    return device or ("cuda" if present else "cpu")


def name(device: str) -> str:
    """Return the model name of a device, as the measured tables carry it."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{cpu_model()} ({os.cpu_count()} CPUs)"


def measured_name(on: str) -> str:
    """Return the device of a measured row: a time of the interpreter says nothing of the CPU and must not pass for one.

    Args:
        on: "cuda", or "cpu" for Triton's interpreter.
    """
    return name(on) if on == "cuda" else f"Triton interpreter on {name(on)}"


def cpu_model() -> str:
    """Return the processor's name, with its instruction set where the system tells one."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment(device: str) -> dict[str, str]:
    """Return what a measurement must carry to be believed: versions, commit, and for a GPU driver and clocks."""
    facts = {
        "torch": _version("torch"),
        "triton": _version("triton"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit(),
    }
    if device == "cpu":
        import torch

        facts |= {"threads": str(torch.get_num_threads()), "simd": torch.backends.cpu.get_cpu_capability()}
        return facts
    return facts | gpu_state()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def commit() -> str:
    """Return the commit of the source tree, with "+" where files differ from it, or "unknown"."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    root = str(Path(__file__).resolve().parent.parent)

    def ask(*words: str) -> str | None:
        done = subprocess.run([git, "-C", root, *words], capture_output=True, text=True, check=False)
        return None if done.returncode else done.stdout.strip()

    head = ask("rev-parse", "--short", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+" if ask("status", "--porcelain", "--", "kernels") else "")


_QUERY = {
    "driver": "driver_version",
    "sm_clock_mhz": "clocks.sm",
    "sm_clock_max_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}


def gpu_state() -> dict[str, str]:
    """Return driver, clocks, power and temperature of the first GPU now; empty where nvidia-smi is absent."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    query = f"--query-gpu={','.join(_QUERY.values())}"
    done = subprocess.run(
        [tool, query, "--format=csv,noheader,nounits", "--id=0"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {}
    values = [v.strip() for v in done.stdout.strip().split(",")]
    return dict(zip(_QUERY, values, strict=False))


def as_pairs(facts: Mapping[str, object]) -> str:
    """Return facts as `key=value; key=value`, the form of the `extra` column.

    >>> as_pairs({"threads": 2, "simd": "AVX2"})
    'threads=2; simd=AVX2'
    """
    return "; ".join(f"{key}={value}" for key, value in facts.items() if value not in ("", None))
