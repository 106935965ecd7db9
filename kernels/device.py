"""Facts of the machine that measures: its GPU, or its CPU, and the versions that decide how fast a kernel is."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from einsum_cascade.errors import KernelError, nearest

DEVICES = ("cpu", "cuda")


def resolve(device: str | None, *, instead: str = "use --device cpu") -> str:
    """Return "cuda" or "cpu": what was asked for if it is there, else the best present.

    Args:
        instead: what to do where a GPU is asked for and none is there.

    Raises:
        KernelError: an unknown device, or a GPU that is not there.
    """
    if device is not None and device not in DEVICES:
        raise KernelError(f"device '{device}': {nearest(device, DEVICES)}")
    import torch

    # PyTorch calls an AMD GPU "cuda" as well; neither tiles nor clocks are known there.
    present = torch.cuda.is_available() and torch.version.hip is None
    if device == "cuda" and not present:
        raise KernelError(f"device 'cuda': torch finds no NVIDIA GPU here; {instead}")
    return device or ("cuda" if present else "cpu")


def cache_bytes(device: str) -> int:
    """Return the L2 cache of the current GPU; 0 of a CPU, where nothing is timed that a cache would matter to."""
    if device != "cuda":
        return 0
    import torch

    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)


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


def environment(device: str, *, meanwhile: Callable[[], object] | None = None) -> dict[str, str]:
    """Return what a measurement must carry to be believed: versions, commit, and for a GPU driver and clocks.

    Args:
        meanwhile: see `gpu_state`.
    """
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
    return facts | gpu_state(gpu=_identifier(), meanwhile=meanwhile)


def under_load(call: Callable[[], object], device: str, *, piece_s: float = 0.02) -> dict[str, str]:
    """Return the environment with the clocks and the power of a GPU while it is busy with a call.

    Args:
        piece_s: the call is launched for about this long at a time, until nvidia-smi has answered: the answer takes
            from some tens of milliseconds to a second.
    """
    if device == "cpu":
        return environment(device)
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    launches = max(1, min(1000, int(piece_s / max(begin.elapsed_time(end) / 1e3, 1e-6))))

    def work() -> None:
        for _ in range(launches):
            call()
        torch.cuda.synchronize()

    return environment(device, meanwhile=work)


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


@functools.cache
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


def gpu_state(
    *, gpu: str = "0", meanwhile: Callable[[], object] | None = None, limit_s: float = 10.0
) -> dict[str, str]:
    """Return driver, clocks, power and temperature of a GPU now; "unknown" for what nvidia-smi does not tell.

    Args:
        gpu: index or "GPU-..." identifier.
        meanwhile: called again and again until nvidia-smi has answered, so that it sees the GPU at work.
        limit_s: nvidia-smi is given up after this long.
    """
    unknown = dict.fromkeys(_QUERY, "unknown")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return unknown
    words = [tool, f"--query-gpu={','.join(_QUERY.values())}", "--format=csv,noheader,nounits", f"--id={gpu}"]
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return unknown
    with process:
        deadline = time.monotonic() + limit_s
        while process.poll() is None and time.monotonic() < deadline:
            (meanwhile or _wait)()
        # Nothing happens to one that has ended.
        process.kill()
        said, _ = process.communicate()
    if process.returncode:
        return unknown
    values = [v.strip() for v in said.strip().split(",")]
    return unknown | {n: v for n, v in zip(_QUERY, values, strict=False) if v and not v.startswith("[")}


def _wait() -> None:
    time.sleep(0.01)


@functools.cache
def _identifier() -> str:
    """Return how nvidia-smi knows torch's current GPU: an index counts all GPUs, torch's only those it may see."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return "0" if uuid is None else f"GPU-{uuid}"


def as_pairs(facts: Mapping[str, object]) -> str:
    """Return facts as `key=value; key=value`, the form of the `extra` column.

    >>> as_pairs({"threads": 2, "simd": "AVX2"})
    'threads=2; simd=AVX2'
    """
    return "; ".join(f"{key}={value}" for key, value in facts.items() if value not in ("", None))
