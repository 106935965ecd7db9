"""What a ranking of strides and tiles gives back: the choices, the stride advice, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .gna_backends import Constants

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Choice:
    """One stride and tile pair with its prediction.

    Attributes:
        rank: from 1, fastest first; of equal times the smallest stride, then the largest tiles.
        latency_s: kernel and token permutation.
        kernel_s: the kernel alone.
        permute_s: token permutation alone.
        speedup: dense attention in the same kernel / latency.
        tile_speedup: the exact tile bound.
        flop_speedup: the FLOP bound.
        steps: KV-tile steps of the busiest SM.
        visited: tile pairs of one head.
        fully_block_sparse: no visited tile needs a mask.
        natten_fast_path: NATTEN's own condition for leaving the mask out of a launch.
        mask_free: the kernel masks nothing.
    """

    rank: int
    stride: tuple[int, ...]
    q_tile: tuple[int, ...]
    kv_tile: tuple[int, ...]
    latency_s: float
    kernel_s: float
    permute_s: float
    speedup: float
    tile_speedup: float
    flop_speedup: float
    steps: int
    visited: int
    fully_block_sparse: bool
    natten_fast_path: bool
    mask_free: bool


@dataclass(frozen=True, slots=True)
class StrideAdvice:
    """The smallest strides of a tile pair that need no mask, axis by axis; None where there is none.

    Attributes:
        exact: smallest stride with which no visited tile needs a mask.
        natten: smallest stride on which NATTEN's kernels take their mask-free path.
    """

    q_tile: tuple[int, ...]
    kv_tile: tuple[int, ...]
    exact: tuple[int, ...] | None
    natten: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class GnaTuning:
    """Every legal stride x tile pair of a kernel, ranked.

    Attributes:
        title: the problem in one line.
        device: the GPU.
        backend: the kernel.
        settings: how many stride x tile pairs were ranked.
        choices: the first of them.
        advice: stride advice per tile pair, without those for which looking for it would take minutes.
        dense_s: dense attention in the same kernel with the fastest tile pair.
        baseline_s: dense attention in cuDNN, or None where it was not measured on this GPU.
        constants: what the steps were priced with.
        assumptions: what the prediction takes for granted.
    """

    title: str
    device: str
    backend: str
    settings: int
    choices: tuple[Choice, ...]
    advice: tuple[StrideAdvice, ...]
    dense_s: float
    baseline_s: float | None
    constants: Constants
    assumptions: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return the ranked choices as a table."""
        import pandas as pd

        return pd.DataFrame([_plain(choice) for choice in self.choices])

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            **_plain(self),
            "choices": [_plain(choice) for choice in self.choices],
            "advice": [_plain(advice) for advice in self.advice],
            "constants": _plain(self.constants),
        }

    def choice_columns(self) -> tuple[str, ...]:
        """Return the heads of the table for people."""
        return ("rank", "stride", "Q tile", "KV tile", "ms", "kernel ms", "speedup", "tile bound", "mask")

    def choice_rows(self) -> list[tuple[Any, ...]]:
        """Return the choices as rows of the table for people."""
        return [
            (
                c.rank,
                _joined(c.stride),
                _joined(c.q_tile),
                _joined(c.kv_tile),
                c.latency_s * 1e3,
                c.kernel_s * 1e3,
                c.speedup,
                c.tile_speedup,
                "no" if c.mask_free else "yes",
            )
            for c in self.choices
        ]

    def advice_rows(self) -> list[tuple[str, str, str]]:
        """Return the stride advice as rows: tiles, exact, on NATTEN's fast path."""
        return [
            (f"{_joined(a.q_tile)} / {_joined(a.kv_tile)}", _joined(a.exact), _joined(a.natten))
            for a in self.advice
        ]

    def notes(self) -> tuple[str, ...]:
        """Return what the ranking rests on, line by line."""
        dense = f"dense attention in the same kernel: {self.dense_s * 1e3:.4g} ms"
        if self.baseline_s is not None:
            dense += f"; in cuDNN: {self.baseline_s * 1e3:.4g} ms"
        ranked = f"{self.settings:,} stride x tile pairs ranked; ms and speedup include token permutation"
        return (
            ranked,
            dense,
            f"constants {self.constants.source}",
            *(f"assumed: {a}" for a in self.assumptions),
        )

    def __str__(self) -> str:
        return "\n".join([self.title, self.table().to_string(index=False), *self.notes()])

    def _repr_html_(self) -> str:
        lines = "<br>".join(self.notes())
        return f"<p>{self.title}</p>{self.table().to_html(index=False)}<p>{lines}</p>"


def _joined(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else ",".join(map(str, shape))


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
