"""The dependency graph of a cascade as inline SVG: layers from left to right, lines led around what lies between."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from einsum_cascade.cascade import Cascade
from einsum_cascade.draw import layers

# Pixels: of a letter, around a name, between layers, between the rows of a layer, of a box.
_LETTER, _PAD, _GAP, _ROW, _BOX = 7.2, 9.0, 34.0, 34.0, 22.0
_SWEEPS = 6

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Way:
    """An edge within a generation, with the places in the layers between that it is led through."""

    stops: tuple[str, ...]


def graph_svg(cascade: Cascade) -> str:
    """Return the graph: inputs on the left; a dashed line hands a state on to the next generation.

    >>> from einsum_cascade import zoo
    >>> graph_svg(zoo.load("gemm")).count("<rect")
    3
    """
    graph, depth = cascade.graph, layers(cascade)
    forward = [(a, b) for a, b, d in graph.edges(data=True) if not d["state"] and depth[a] < depth[b]]
    back = [(a, b) for a, b in graph.edges if (a, b) not in set(forward)]
    ways, columns = _columns(depth, forward)
    _untangle(columns, ways)
    places, width, height = _places(columns)
    below = height + 8 + 9 * len(back)
    lines = [_curve([places[s] for s in way.stops], places, way.stops) for way in ways]
    lines += [_return(a, b, places, height + 4 + 9 * k) for k, (a, b) in enumerate(back)]
    boxes = [_box(n, places[n], str(d["kind"])) for n, d in graph.nodes(data=True)]
    title = f"dependency graph of {cascade.name}"
    return (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {below:.0f}" style="max-width:{width * 1.15:.0f}px" role="img" '
        f'aria-label="{escape(title)}">{"".join(lines + boxes)}</svg>'
    )


def _columns(
    depth: Mapping[str, int], edges: Sequence[tuple[str, str]]
) -> tuple[list[_Way], list[list[str]]]:
    """Return the edges with a stop in every layer that they cross, and the layers with nodes and stops."""
    columns: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for node, layer in depth.items():
        columns[layer].append(node)
    ways = []
    for a, b in edges:
        between = [f"{a} {b} {layer}" for layer in range(depth[a] + 1, depth[b])]
        for layer, stop in enumerate(between, start=depth[a] + 1):
            columns[layer].append(stop)
        ways.append(_Way((a, *between, b)))
    return ways, columns


def _untangle(columns: list[list[str]], ways: Sequence[_Way]) -> None:
    """Order every layer by the mean place of its neighbours, forwards and backwards, so that few lines cross.

    Source: Sugiyama, Tagawa, Toda (1981), the barycentre rule.
    """
    before: dict[str, list[str]] = defaultdict(list)
    after: dict[str, list[str]] = defaultdict(list)
    for way in ways:
        for a, b in itertools.pairwise(way.stops):
            before[b].append(a)
            after[a].append(b)
    for sweep in range(_SWEEPS):
        forwards = sweep % 2 == 0
        order = range(1, len(columns)) if forwards else range(len(columns) - 2, -1, -1)
        neighbours = before if forwards else after
        for layer in order:
            beside = columns[layer - 1 if forwards else layer + 1]
            place = {n: (k + 0.5) / len(beside) for k, n in enumerate(beside)}
            own = {n: (k + 0.5) / len(columns[layer]) for k, n in enumerate(columns[layer])}
            mean = {n: _mean([place[m] for m in neighbours[n] if m in place], own[n]) for n in columns[layer]}
            columns[layer].sort(key=lambda n: mean[n])


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _places(columns: Sequence[Sequence[str]]) -> tuple[dict[str, Place], float, float]:
    """Return the middle of every node and stop, and the width and height of the drawing."""
    height = max(len(c) for c in columns) * _ROW
    places: dict[str, Place] = {}
    left = 4.0
    for column in columns:
        wide = max((_width(n) for n in column), default=0.0)
        row = height / max(len(column), 1)
        row = min(row, 1.6 * _ROW)
        top = (height - row * len(column)) / 2
        for k, node in enumerate(column):
            places[node] = (left + wide / 2, top + (k + 0.5) * row)
        left += wide + _GAP
    return places, left - _GAP + 4, height


def _width(node: str) -> float:
    return 0.0 if " " in node else _LETTER * len(node) + 2 * _PAD


def _curve(points: Sequence[Place], places: Mapping[str, Place], stops: Sequence[str]) -> str:
    first, last = points[0], points[-1]
    points = [
        (first[0] + _width(stops[0]) / 2, first[1]),
        *points[1:-1],
        (last[0] - _width(stops[-1]) / 2 - 5, last[1]),
    ]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        middle = (x0 + x1) / 2
        path += f"C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    x, y = points[-1]
    return f'<path class="edge" d="{path}"/><path class="tip" d="M{x + 5:.1f} {y:.1f}l-6-3v6z"/>'


def _return(a: str, b: str, places: Mapping[str, Place], low: float) -> str:
    """Return the line of a state: out below one box, along the bottom, and up into another."""
    (xa, ya), (xb, yb) = places[a], places[b]
    shift = 14.0 if a == b else 5.0
    ya, yb = ya + _BOX / 2, yb + _BOX / 2
    path = (
        f"M{xa + shift:.1f} {ya:.1f}C{xa + shift:.1f} {low + 12:.1f} {xb - shift:.1f} {low + 12:.1f} "
        f"{xb - shift:.1f} {yb + 5:.1f}"
    )
    x, y = xb - shift, yb
    return f'<path class="edge state" d="{path}"/><path class="tip state" d="M{x:.1f} {y:.1f}l-3 6h6z"/>'


def _box(name: str, place: Place, kind: str) -> str:
    wide = _width(name)
    x, y = place
    return (
        f'<rect class="{kind}" x="{x - wide / 2:.1f}" y="{y - _BOX / 2:.1f}" width="{wide:.1f}" height="{_BOX:.0f}" '
        f'rx="5"/><text class="node" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(name)}</text>'
    )
