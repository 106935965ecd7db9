"""Small line charts as inline SVG: both axes logarithmic, with ticks, units and labels; no library, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .amounts import amount, count

WIDTH, HEIGHT = 430, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 12, 40
# A chart of one flat line still shows a decade.
_LEAST_DECADES = 1.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a value per length, None where there is none; `hollow` marks values that are guesses."""

    label: str
    style: str
    values: Sequence[float | None]
    hollow: Sequence[bool] = ()


def chart(series: Sequence[Series], lengths: Sequence[int], *, unit: str, label: str) -> str:
    """Return a chart of amounts over lengths.

    Args:
        unit: of the values, for the ticks.
        label: of the axis upwards.
    """
    values = [v for s in series for v in s.values if v is not None and v > 0]
    if not values:
        return f'<p class="none">No {escape(label)} at any length.</p>'
    low, high = _range(values)
    x_of = {n: _scaled(math.log2(n), math.log2(lengths[0]), math.log2(lengths[-1]), _X) for n in lengths}

    def y_of(value: float) -> float:
        return _scaled(math.log10(value), low, high, _Y)

    parts = [*_x_axis(x_of), *_y_axis(low, high, unit, label)]
    for s in series:
        points = [
            (x_of[n], y_of(v), k < len(s.hollow) and s.hollow[k])
            for k, (n, v) in enumerate(zip(lengths, s.values, strict=True))
            if v is not None and v > 0
        ]
        parts += _line(s, points)
    text = f"{label} against length: " + "; ".join(s.label for s in series)
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(text)}">'
    return f"{head}{''.join(parts)}</svg>{_legend(series)}"


_X = (LEFT, WIDTH - RIGHT)
_Y = (HEIGHT - BOTTOM, TOP)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten between which the values lie, a little wider."""
    low, high = math.log10(min(values)), math.log10(max(values))
    spare = max(_LEAST_DECADES - (high - low), 0.2) / 2
    return low - spare, high + spare


def _scaled(value: float, low: float, high: float, place: tuple[float, float]) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return place[0] + share * (place[1] - place[0])


def _x_axis(x_of: dict[int, float]) -> list[str]:
    base = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}"/>']
    for n, x in x_of.items():
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 15}" text-anchor="middle">{count(n)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">length [elements]</text>'
    )
    return parts


def _y_axis(low: float, high: float, unit: str, label: str) -> list[str]:
    step = max(1, math.ceil((high - low) / 6))
    powers = range(math.ceil(low), math.floor(high) + 1, step)
    parts = []
    for power in powers:
        y = _scaled(power, low, high, _Y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{amount(10.0**power, unit)}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="translate(11 {middle:.0f}) rotate(-90)"'
    return [*parts, f'<text class="label" {turned} text-anchor="middle">{escape(label)} [{unit}]</text>']


def _line(s: Series, points: Sequence[tuple[float, float, bool]]) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    parts = [f'<polyline class="line {s.style}" points="{path}"/>']
    return parts + [
        f'<circle class="dot {s.style}{" hollow" if hollow else ""}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
        for x, y, hollow in points
    ]


def _legend(series: Sequence[Series]) -> str:
    items = (f'<li><i class="key {s.style}"></i>{escape(s.label)}</li>' for s in series)
    return f'<ul class="legend">{"".join(items)}</ul>'
