"""Random cascades of a few words, as text: small enough that every schedule can be tried."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# The ranks of tensors; M is the one that is walked most.
SHAPES = [("M",), ("M", "P"), ("E", "M"), ("P",), ("M", "E", "P"), ("E", "P"), (), ("M", "P"), ("M",)]
LONG, SHORT = (2, 6), (1, 2)


@dataclass(frozen=True)
class Tiny:
    """A cascade with sizes and a buffer of a few words."""

    text: str
    sizes: dict[str, int]
    words: int


def tiny_cascade(seed: int, *, plain: bool = False) -> Tiny:
    """Return up to seven Einsums over three ranks in which coordinates alone decide, with what it takes to play them.

    Every seed is as likely as any other to give a cascade whose further passes cost something; what Hypothesis draws
    choice by choice repeats itself too much for that.

    Args:
        plain: no predicates, and no indices but variables.
    """
    maker = _Maker(random.Random(seed), plain)
    rng = maker.rng
    for name in ("A", "B", "C"):
        maker.known[name] = rng.choice(SHAPES)
    given = list(maker.known)
    lines: list[str] = []
    if rng.randint(0, 4) == 0:
        lines += maker.recurrence()
    for _ in range(rng.choice([0, 1, 1, 1, 1, 2])):
        lines += maker.twice(len(lines))
    lines += [maker.einsum(f"U{i}") for i in range(rng.randint(0, 2) if lines else rng.randint(2, 3))]
    made = [n for n in maker.known if n not in given and n != "R"]
    outputs = [n for n in made if n == made[-1] or rng.randint(0, 5) == 0]
    # A buffer of few words, and ranks that are long for it, make the further passes cost something.
    sizes = {"M": rng.randint(*LONG), "P": rng.randint(*SHORT), "E": rng.randint(*SHORT)}
    head = ["cascade tiny", "rank M P E", f"input {maker.signatures(given)}"]
    text = "\n".join([*head, f"output {maker.signatures(outputs)}", *lines]) + "\n"
    return Tiny(text, sizes, rng.choice([3, 4, 3, 4, 5, 6]))


class _Maker:
    """Writes Einsums that read what was written before.

    Attributes:
        known: the ranks of what may be read.
    """

    def __init__(self, rng: random.Random, plain: bool) -> None:
        self.rng, self.plain = rng, plain
        self.known: dict[str, tuple[str, ...]] = {}

    def signatures(self, names: Iterable[str]) -> str:
        return " ".join(f"{n}[{', '.join(self.known[n])}]" for n in names)

    def einsum(self, name: str, *, names: Sequence[str] = (), kept: tuple[str, ...] | None = None) -> str:
        rng = self.rng
        kept = rng.choice(SHAPES) if kept is None else kept
        target = tuple(r.lower() for r in kept)
        # What was made last is read more often than not: long chains need passes.
        recent = list(self.known)[-3:]
        if not names:
            pools = (recent if rng.random() < 0.5 else list(self.known) for _ in range(rng.randint(1, 3)))
            names = list(dict.fromkeys(rng.choice(pool) for pool in pools))
        reads = [self._read(n, target) for n in names]
        value = reads[0]
        for r in reads[1:]:
            value = f"{value} {rng.choice('***+-')} {r}"
        shape = rng.randint(0, 9)
        if shape == 0 and len(reads) > 1 and not self.plain:
            value = f"select({self._predicate(target)}, {reads[0]}, {' * '.join(reads[1:])})"
        elif shape <= 2:
            value = f"exp({value})"
        used = value.replace("pad", "").replace("clamp", "").replace("select", "").replace("exp", "")
        reduced = [v for v in "mpe" if v in used and v not in target]
        line = f"{name}[{', '.join(target)}] = {value}"
        if reduced:
            line += f" :: {rng.choice(['sum', 'max'])}({', '.join(reduced)})"
        if rng.randint(0, 7) == 0 and not self.plain:
            line += f" where {self._predicate((*target, *reduced))}"
        self.known[name] = kept
        return line

    def _read(self, name: str, target: tuple[str, ...]) -> str:
        rng = self.rng
        indices = []
        for axis, rank in enumerate(self.known[name]):
            v = rank.lower()
            if name == "R" and axis == 0:
                indices.append(rng.choice(["M", "m"] if self.plain else ["M", "M", "m", "m+1", "0"]))
                continue
            shapes = {0: f"{v}+1", 1: f"{v}-1", 2: "0", 3: f"{v}//2", 4: f"{rank}-1-{v}"}
            shapes |= {5: rng.choice(target) if target else v, 6: f"clamp({v}-1, 0, {rank}-1)"}
            indices.append(v if self.plain else shapes.get(rng.randint(0, 79), v))
        text = f"{name}[{', '.join(indices)}]"
        return f"pad({text}, 0)" if rng.randint(0, 19) == 0 and not self.plain else text

    def _predicate(self, space: tuple[str, ...]) -> str:
        if not space:
            return "M > 1"
        left, right = self.rng.choice(space), self.rng.choice([*space, "1", "2", "0"])
        return f"{left} {self.rng.choice(['<', '<=', '!=', '>', '>=', '=='])} {right}"

    def twice(self, number: int) -> list[str]:
        """Return Einsums of which one waits for a value of a whole fiber and walks it again."""
        rng, lines = self.rng, []
        source = rng.choice(list(self.known))
        if rng.random() < 0.5:  # what is walked twice is made in the text
            source = f"T{number}"
            lines.append(self.einsum(source))
        ranks = tuple(r for r in self.known[source] if r != "M")
        kept = tuple(r for r in ranks if rng.randint(0, 3))
        whole = f"G{number}"
        lines.append(self.einsum(whole, names=[source], kept=kept))
        others = [rng.choice(list(self.known))] if rng.random() < 0.5 else []
        after = rng.choice([kept, self.known[source], ranks, ("M", "P"), ()])
        names = list(dict.fromkeys([source, whole, *others]))
        lines.append(self.einsum(f"Y{number}", names=names, kept=after))
        return lines

    def recurrence(self) -> list[str]:
        """Return a block that walks M with one state, by whole rows of P or by single words."""
        ranks = self.rng.choice([(), ("P",)])
        free = "".join(f", {r.lower()}" for r in ranks)
        source = self.rng.choice(list(self.known))
        index = [r.lower() for r in self.known[source]]
        local = ", ".join(["m", *(r.lower() for r in ranks)])
        reduced = [v for v in index if v != "m" and v.upper() not in ranks]
        tail = f" :: sum({', '.join(reduced)})" if reduced else ""
        self.known["L"] = self.known["R"] = ("M", *ranks)
        return [
            f"R[0{free}] = 0",
            "iterate m {",
            f"  L[{local}] = {source}[{', '.join(index)}]{tail}",
            f"  R[m+1{free}] = R[m{free}] * L[{local}]",
            "}",
        ]
