"""What a search for fewer passes hands back: the steps, the result, and what holds the passes that are left."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

from ..cascade import Cascade


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that was applied, to which Einsum, and why it holds."""

    rule: str
    einsum: str
    why: str

    def as_json(self) -> dict[str, str]:
        """Return the fields that commands print."""
        return {"rule": self.rule, "einsum": self.einsum, "why": self.why}


@dataclass(frozen=True, slots=True)
class Stuck:
    """An Einsum that keeps a pass, and why."""

    einsum: str
    why: str


@dataclass(frozen=True)
class Reduction:
    """An equal cascade with the fewest passes that were reached.

    Attributes:
        before, after: passes over the rank.
        steps: the rules applied, in order.
        stuck: what holds the passes that are left.
        stages: the cascade after each step.
    """

    rank: str
    cascade: Cascade
    before: int
    after: int
    steps: tuple[Step, ...]
    stuck: tuple[Stuck, ...]
    stages: tuple[Cascade, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields that the command prints."""
        return {
            "before": self.before,
            "after": self.after,
            "steps": [s.as_json() for s in self.steps],
            "stuck": [{"einsum": s.einsum, "why": s.why} for s in self.stuck],
            "cascade": str(self.cascade),
        }

    def __str__(self) -> str:
        lines = [f"passes over {self.rank}: {self.before} -> {self.after}"]
        lines += [f"  {s.rule} {s.einsum}: {s.why}" for s in self.steps]
        lines += [f"  stuck at {s.einsum}: {s.why}" for s in self.stuck]
        return "\n".join([*lines, "", str(self.cascade)])

    def _repr_html_(self) -> str:
        rows = [(s.rule, s.einsum, s.why) for s in self.steps] + [
            ("stuck", s.einsum, s.why) for s in self.stuck
        ]
        title = f"passes over {html.escape(self.rank)}: <b>{self.before} &rarr; {self.after}</b>"
        return told_as_html(title, rows, self.cascade)


def told_as_html(title: str, rows: Iterable[tuple[str, str, str]], cascade: Cascade) -> str:
    """Return what was done to a cascade as a table, and the cascade below it, for a notebook.

    Args:
        title: in HTML.
        rows: rule, Einsum and reason of each step.
    """
    cells = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(c)}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f"<p>{title}</p><table>{cells}</table><pre>{html.escape(str(cascade))}</pre>"
