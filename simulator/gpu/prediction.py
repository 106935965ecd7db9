"""What the tile simulator says of one call, for programs, terminals and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from einsum_cascade.analysis.quantities import shown_bytes

_SHOWN = 4  # Einsums of a launch that are named one by one


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulator says of one call.

    Attributes:
        latency_s: expected; `low_s`, `high_s`: the interval that goes with the source of the constants.
        tflops: useful operations per second, as published tables count them.
        bound_by: the slowest pipe of the tile; "chain" where its products wait for each other, or for what
            comes from memory, longer; "memory", "launch" or "waves" where that part is the largest.
        tiles: score tiles of the whole call: full, masked, skipped.
        waves: blocks over slots.
        scalar: the part of the slowest pipe's rate; `scalar_source`: where it comes from.
        roofline_s: max(operations / peak, bytes / bandwidth), for comparison.
        resources: registers, shared memory, blocks per SM and what limits them, tile.
        power_w: of the board, if the call runs again and again; `energy_j`: power times latency, with its interval.
        assumptions: what was taken for granted; `warnings`: those of them that the caller should know first.
        launches: one by one, of a kernel that is described by them: name, blocks, steps, waves, what binds it, seconds
            beyond the fixed cost, bytes read and written at the least.
    """

    latency_s: float
    low_s: float
    high_s: float
    tflops: float
    bound_by: str
    tiles: Mapping[str, int]
    waves: float
    scalar: float
    scalar_source: str
    roofline_s: float
    parts_s: Mapping[str, float]
    pipes_cycles: Mapping[str, float]
    resources: Mapping[str, Any]
    power_w: float
    energy_j: float
    energy_low_j: float
    energy_high_j: float
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    launches: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __str__(self) -> str:
        return "\n".join(f"{name:<24}  {_text(value)}" for name, value in self.rows())

    def _repr_html_(self) -> str:
        from html import escape

        cells = (
            f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in self.rows()
        )
        return f"<table>{''.join(cells)}</table>"

    def rows(self) -> list[tuple[str, Any]]:
        """Return what people read first, as (quantity, value)."""
        tiles = ", ".join(f"{n:,} {name}" for name, n in self.tiles.items())
        parts = ", ".join(f"{name} {s * 1e6:.1f}" for name, s in self.parts_s.items())
        made = self.resources
        shape = f"{made['query']} x {made['key']}, " if made["query"] > 1 else ""
        return [
            ("latency [us]", self.latency_s * 1e6),
            ("interval [us]", f"{self.low_s * 1e6:.4g} to {self.high_s * 1e6:.4g}"),
            ("TFLOPS", self.tflops),
            ("bound by", self.bound_by),
            ("steps of loops" if self.launches else "score tiles", tiles),
            ("tile", f"{shape}{made['blocks_per_sm']} blocks an SM"),
            ("resources", made["resources"]),
            ("waves", self.waves),
            ("parts [us]", parts),
            *((f"launch {_short(each['name'])}", _of_launch(each)) for each in self.launches),
            ("roofline [us]", self.roofline_s * 1e6),
            ("energy [mJ]", self.energy_j * 1e3),
            ("interval [mJ]", f"{self.energy_low_j * 1e3:.4g} to {self.energy_high_j * 1e3:.4g}"),
            ("board power [W]", self.power_w),
            ("scalar", self.scalar),
            ("source of the constants", self.scalar_source),
            *(("assumption", text) for text in self.assumptions),
        ]


def _short(name: str) -> str:
    """Return the name of a launch of many Einsums by its first and its last."""
    parts = name.split("+")
    return name if len(parts) <= _SHOWN else f"{parts[0]}+..+{parts[-1]} ({len(parts)})"


def _of_launch(each: Mapping[str, Any]) -> str:
    return (
        f"{each['latency_s'] * 1e6:.4g} us, bound by {each['bound_by']}; {each['blocks']:,} blocks in "
        f"{each['waves']:.3g} waves, {each['steps']:,} steps, {shown_bytes(each['bytes'])}"
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
