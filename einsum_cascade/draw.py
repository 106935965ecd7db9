"""The dependency graph of a cascade as DOT text, or drawn in layers; no graphviz program is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .cascade import Cascade
from .errors import CascadeError

_FILL = {"input": "#d9e8f6", "einsum": "#f4f4f4", "output": "#f8e0c8"}
_EDGE = "#666666"
_STATE = "#b03060"
# Without these Matplotlib writes the time and random ids into an SVG, and two runs would differ.
_STABLE: dict[Any, Any] = {"svg.hashsalt": "einsum_cascade", "svg.fonttype": "none"}


def dot(cascade: Cascade) -> str:
    """Return the dependency graph in the DOT language; dashed edges carry a state to the next generation.

    >>> from einsum_cascade import zoo
    >>> print(dot(zoo.load("gemm")))
    digraph gemm {
      rankdir=LR
      A [shape=box]
      B [shape=box]
      C [shape=doubleoctagon]
      A -> C
      B -> C
    }
    """
    graph = cascade.graph
    shapes = {"input": "box", "einsum": "ellipse", "output": "doubleoctagon"}
    lines = [f"  {n} [shape={shapes[d['kind']]}]" for n, d in graph.nodes(data=True)]
    lines += [f"  {a} -> {b}{' [style=dashed]' if d['state'] else ''}" for a, b, d in graph.edges(data=True)]
    return "\n".join([f"digraph {cascade.name} {{", "  rankdir=LR", *lines, "}"])


def layers(cascade: Cascade) -> dict[str, int]:
    """Return the layer of each tensor: inputs 0, every other one past all that it reads in the same generation."""
    import networkx

    graph = cascade.graph
    kept = networkx.DiGraph()
    kept.add_nodes_from(graph.nodes)
    kept.add_edges_from((a, b) for a, b, d in graph.edges(data=True) if not d["state"] and a != b)
    # Two reads of a state, one before and one after its update, are one edge; what closes a circle is the older one.
    while not networkx.is_directed_acyclic_graph(kept):
        order = list(graph.nodes)
        circle = networkx.find_cycle(kept)
        kept.remove_edge(*max(circle, key=lambda e: order.index(e[0]) - order.index(e[1]))[:2])
    depth: dict[str, int] = {}
    for node in networkx.topological_sort(kept):
        depth[node] = max((depth[p] + 1 for p in kept.predecessors(node)), default=0)
    return depth


def draw(cascade: Cascade, *, axes: Any = None) -> Any:
    """Return Matplotlib axes with the dependency graph in layers, inputs on the left.

    Args:
        axes: where to draw; a new figure by default.
    """
    import networkx
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

    graph, depth = cascade.graph, layers(cascade)
    order = list(graph.nodes)
    # In the order of the text, the first on top; a set of names has another order in every run.
    columns = {layer: [n for n in reversed(order) if depth[n] == layer] for layer in depth.values()}
    places = networkx.multipartite_layout(graph, subset_key=columns)
    if axes is None:
        tallest = max((list(depth.values()).count(i) for i in depth.values()), default=1)
        width = 1.5 * (1 + max(depth.values(), default=0))
        axes = Figure(figsize=(max(4.0, width), max(2.5, 0.8 * tallest)), layout="constrained").subplots()
    axes.set_axis_off()
    axes.set_title(cascade.name)
    axes.margins(0.1, 0.25)
    for a, b, data in graph.edges(data=True):
        span = abs(depth[b] - depth[a])
        # An arc is as deep as it is long; beyond six layers that would push the others together.
        bend = 0.25 * min(1.0, 6.0 / span) if span > 1 else 0.25 * data["state"]
        style: dict[str, Any] = {
            "arrowstyle": "-|>",
            "color": _STATE if data["state"] else _EDGE,
            "linestyle": "--" if data["state"] else "-",
            "connectionstyle": f"arc3,rad={bend}",
            "shrinkA": 14,
            "shrinkB": 14,
        }
        # A patch and no annotation, whose arrow has no part in the frame that a picture is cut to.
        axes.add_patch(FancyArrowPatch(places[a], places[b], mutation_scale=10, clip_on=False, **style))
    for node, (x, y) in places.items():
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": _FILL[graph.nodes[node]["kind"]],
            "edgecolor": "#333333",
        }
        axes.text(x, y, node, ha="center", va="center", fontsize=9, bbox=box)
        axes.plot([x], [y], alpha=0.0)
    return axes


def save_graph(cascade: Cascade, path: str | Path) -> None:
    """Write the dependency graph; the ending decides: .dot for text, .svg, .png or .pdf for a drawing.

    Raises:
        CascadeError: another ending, or a file that cannot be written.
    """
    import matplotlib

    file = Path(path)
    if file.suffix not in (".dot", ".svg", ".png", ".pdf"):
        raise CascadeError(f"{path}: a graph is written as .svg, .png, .pdf or .dot")
    try:
        if file.suffix == ".dot":
            file.write_text(dot(cascade) + "\n", encoding="utf-8")
            return
        with matplotlib.rc_context(_STABLE):
            figure = draw(cascade).figure
            stamp: Any = {"Date": None} if file.suffix == ".svg" else None
            # Arcs may leave the frame of the axes; the tight frame holds all of them.
            figure.savefig(file, metadata=stamp, bbox_inches="tight")
    except OSError as error:
        raise CascadeError(f"cannot write {path}: {error.strerror or error}") from None
