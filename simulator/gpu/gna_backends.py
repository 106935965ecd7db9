"""Kernels that run neighbourhood attention: their tile pairs, their policies and what their time model needs."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path

from einsum_cascade.errors import HardwareError, MappingError, nearest

from ..hardware.gpu import Gpu

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True, slots=True)
class TilePair:
    """The shapes of a Q tile and a KV tile that a kernel is compiled for.

    Attributes:
        q_tile: queries per axis.
        kv_tile: keys per axis.
        source: where the pair is listed.
    """

    q_tile: tuple[int, ...]
    kv_tile: tuple[int, ...]
    source: str

    @property
    def tokens(self) -> tuple[int, int]:
        """Queries of a Q tile and keys of a KV tile."""
        return prod(self.q_tile), prod(self.kv_tile)

    def __str__(self) -> str:
        return " / ".join(",".join(map(str, shape)) for shape in (self.q_tile, self.kv_tile))


@dataclass(frozen=True, slots=True)
class Backend:
    """What a kernel does with the tiles that it visits.

    Attributes:
        dynamic: KV tiles start at the window of their Q tile.
        persistent: Q tiles are dealt to the SMs in turn; otherwise each goes to the SM that is free first.
        masks_launch: a launch masks every visited tile or none; otherwise only those that need it.
        permutes: tokens are put into tile order before the kernel and back after it.
        capabilities: compute capabilities it runs on; empty for all.
        head_dims: legal head dimensions.
        like: the implementation of plain attention whose inner loop it shares.
    """

    name: str
    dynamic: bool
    persistent: bool
    masks_launch: bool
    permutes: bool
    capabilities: tuple[int, ...]
    head_dims: range | tuple[int, ...]
    like: str
    summary: str
    source: str


@dataclass(frozen=True, slots=True)
class Constants:
    """What turns KV-tile steps into seconds for one kernel on one GPU.

    Attributes:
        start_s: time of a launch without a step.
        flops_per_s: tensor operations per second of the whole chip inside an unmasked step.
        mask_factor: time of a masked step / time of an unmasked one.
        permute_bytes_per_s: bytes that token permutation reads and writes per second; zero where there is none.
        baseline_factor: time of cuDNN's dense attention / time of this kernel's; zero where not measured.
        fitted: measured rows stand behind the numbers; otherwise they are assumptions.
        source: which rows, or why the assumption.
    """

    device: str
    backend: str
    start_s: float
    flops_per_s: float
    mask_factor: float
    permute_bytes_per_s: float
    baseline_factor: float
    fitted: bool
    source: str


@cache
def backends() -> dict[str, Backend]:
    """Return every known kernel by name, in the order in which NATTEN prefers them.

    >>> list(backends())
    ['blackwell-fna', 'hopper-fna', 'cutlass-fna', 'flex-fna']
    """
    return {row["backend"]: _backend(row) for row in _rows("gna_backends.csv")}


def find_backend(gpu: Gpu, name: str | None = None, *, head_dim: int | None = None) -> Backend:
    """Return the kernel of that name, or the one NATTEN would pick, if it runs on the GPU.

    Args:
        gpu: where it runs.
        name: of the kernel; without one NATTEN takes the first that can run.
        head_dim: elements of a head, which NATTEN looks at too; None for any that the kernel can run.

    Raises:
        MappingError: no such kernel, or none for heads of this dimension.
        HardwareError: it does not run on this GPU.

    Source: NATTEN 0.21.7, src/natten/backends/__init__.py, choose_backend.

    >>> from simulator.hardware.gpu import find_gpu
    >>> [find_backend(find_gpu("h100"), head_dim=n).name for n in (64, 80)]
    ['hopper-fna', 'cutlass-fna']
    """
    if name is None:
        able_here = [b for b in backends().values() if _runs_on(b, gpu)]
        found = next((b for b in able_here if head_dim is None or head_dim in b.head_dims), able_here[-1])
        if head_dim is not None:
            check_head_dim(found, head_dim)
        return found
    if name not in backends():
        raise MappingError(f"unknown backend '{name}'; {nearest(name, backends())}")
    found = backends()[name]
    if not _runs_on(found, gpu):
        able = ", ".join(b.name for b in backends().values() if _runs_on(b, gpu))
        raise HardwareError(f"{name} does not run on {gpu.name} ({gpu.target}); there: {able}")
    return found


def tile_pairs(backend: Backend, gpu: Gpu, *, axes: int, head_dim: int) -> tuple[TilePair, ...]:
    """Return the tile pairs that a kernel is compiled for.

    Raises:
        MappingError: the kernel has no tiles for this head dimension.

    >>> from simulator.hardware.gpu import find_gpu
    >>> [str(pair) for pair in tile_pairs(backends()["hopper-fna"], find_gpu("h100"), axes=3, head_dim=128)]
    ['4,4,8 / 4,4,8', '2,8,8 / 2,8,8']
    >>> len(tile_pairs(backends()["cutlass-fna"], find_gpu("a100"), axes=3, head_dim=128))
    76
    """
    check_head_dim(backend, head_dim)
    found = [
        TilePair(_shape(row["q_tile"]), _shape(row["kv_tile"]), row["source"])
        for row in _rows("gna_tiles.csv")
        if row["backend"] == backend.name
        and int(row["axes"]) == axes
        and row["head_dim"] in ("", str(head_dim))
        and (not row["capabilities"] or capability(gpu) in _numbers(row["capabilities"]))
    ]
    if not found:
        raise MappingError(
            f"{backend.name} has no tiles for {axes} axes and head_dim {head_dim} on {gpu.name}"
        )
    return tuple(found)


def check_head_dim(backend: Backend, head_dim: int) -> None:
    """Refuse a head dimension that a kernel cannot run.

    Raises:
        MappingError: with those that it can.
    """
    if head_dim not in backend.head_dims:
        legal = backend.head_dims
        said = (
            f"multiples of {legal.step} from {legal.start} to {legal[-1]}"
            if isinstance(legal, range)
            else ", ".join(map(str, legal))
        )
        raise MappingError(f"head_dim: {backend.name} cannot run {head_dim}; expected {said}")


def constants(backend: Backend, gpu: Gpu) -> Constants:
    """Return the time constants of a kernel on a GPU: fitted or assumed ones of it, or scaled ones of another GPU.

    Scaling is by peak tensor rate and memory bandwidth, with the start and the mask factor kept; the result says so.
    How cuDNN fares beside the kernel is not measured there, and stays unknown.

    >>> from simulator.hardware.gpu import find_gpu
    >>> [constants(backends()["cutlass-fna"], find_gpu(n)).flops_per_s / 1e12 for n in ("b200", "b300")]
    [280.0, 280.0]
    """
    rows = [_constants(row) for row in _rows("gna_constants.csv") if row["backend"] == backend.name]
    for row in rows:
        if row.device == gpu.name:
            return row
    from ..hardware.gpu import find_gpu

    # Tensor cores of another generation are fed by other instructions: what a kernel reaches of A100's peak says
    # nothing of B300's, whose peak its instructions do not reach.
    known = [(row, find_gpu(row.device)) for row in rows]
    akin = [(row, other) for row, other in known if capability(other) // 10 == capability(gpu) // 10]
    base, other = (akin or known)[0]
    return replace(
        base,
        device=gpu.name,
        flops_per_s=base.flops_per_s * gpu.peak_flops("fp16") / other.peak_flops("fp16"),
        permute_bytes_per_s=base.permute_bytes_per_s
        * gpu.memory_bandwidth_bytes_per_s
        / other.memory_bandwidth_bytes_per_s,
        baseline_factor=0.0,
        fitted=False,
        source=f"assumed: {base.device} scaled by peak fp16 rate and memory bandwidth; there: {base.source}",
    )


def capability(gpu: Gpu) -> int:
    """Return the compute capability of a GPU as NATTEN writes it, 90 for sm_90."""
    return int(gpu.target.removeprefix("sm_").rstrip("af"))


def _runs_on(backend: Backend, gpu: Gpu) -> bool:
    return not backend.capabilities or capability(gpu) in backend.capabilities


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    with (TABLES / name).open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(";") if word)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split("x"))


def _backend(row: dict[str, str]) -> Backend:
    start, colon, rest = row["head_dims"].partition(":")
    last, _, step = rest.partition(":")
    return Backend(
        name=row["backend"],
        dynamic=row["dynamic"] == "1",
        persistent=row["scheduling"] == "persistent",
        masks_launch=row["masking"] == "launch",
        permutes=row["permute"] == "1",
        capabilities=_numbers(row["capabilities"]),
        head_dims=range(int(start), int(last) + 1, int(step)) if colon else _numbers(row["head_dims"]),
        like=row["like"],
        summary=row["summary"],
        source=row["source"],
    )


def _constants(row: dict[str, str]) -> Constants:
    figures = ("start_s", "flops_per_s", "mask_factor", "permute_bytes_per_s", "baseline_factor")
    start, rate, mask, permute, baseline = (float(row[name]) for name in figures)
    return Constants(
        row["device"],
        row["backend"],
        start,
        rate,
        mask,
        permute,
        baseline,
        row["fitted"] == "1",
        row["source"],
    )
