"""Random cascades of a few words, as text: small enough that every schedule can be tried."""

from __future__ import annotations

import random
from dataclasses import dataclass

RANKS = ("M", "P", "E")
# Sizes along the rank that is walked most, and along the others.
_SHAPES = [("M",), ("M", "P"), ("E", "M"), ("P",), ("M", "E", "P"), ("E", "P"), (), ("M", "P"), ("M",)]
LONG, SHORT = (2, 6), (1, 2)


@dataclass(frozen=True)
class Tiny:
    """A cascade with sizes and a buffer."""

    text: str
    sizes: dict[str, int]
    words: int


def tiny_cascade(seed: int) -> Tiny:
    """Return two to five Einsums over three ranks that coordinates alone decide, with what it takes to play them.

    Every seed is as likely as any other to give a cascade whose further passes cost something; what Hypothesis draws
    choice by choice repeats itself too much for that.
    """
    rng = random.Random(seed)
    known: dict[str, tuple[str, ...]] = {}
    for name in ("A", "B", "C"):
        known[name] = rng.choice(_SHAPES)
    given_ = dict(known)
    lines: list[str] = []
    if rng.randint(0, 4) == 0:
        lines += _recurrence(rng, known)
    if rng.randint(0, 3):
        lines += _twice(rng, known)
    for i in range(rng.randint(0, 2) if lines else rng.randint(2, 3)):
        lines.append(_einsum(rng, known, f"U{i}"))
    made = [n for n in known if n not in given_ and n != "R"]
    outputs = [n for n in made if n == made[-1] or rng.randint(0, 5) == 0]
    # A buffer of few words, and ranks that are long for it, make the further passes cost something.
    sizes = {"M": rng.randint(*LONG), "P": rng.randint(*SHORT), "E": rng.randint(*SHORT)}
    head = ["cascade tiny", "rank M P E", f"input {_signatures(given_, given_)}"]
    text = "\n".join([*head, f"output {_signatures(outputs, known)}", *lines]) + "\n"
    return Tiny(text, sizes, rng.choice([3, 4, 3, 4, 5, 6]))


def _signatures(names: object, known: dict[str, tuple[str, ...]]) -> str:
    return " ".join(f"{n}[{', '.join(known[n])}]" for n in names)  # type: ignore[attr-defined]


def _einsum(
    rng: random.Random,
    known: dict[str, tuple[str, ...]],
    name: str,
    *,
    names: list[str] | None = None,
    kept: tuple[str, ...] | None = None,
) -> str:
    kept = rng.choice(_SHAPES) if kept is None else kept
    target = tuple(r.lower() for r in kept)
    # What was made last is read more often than not: long chains need passes.
    recent = list(known)[-3:]
    if names is None:
        drawn = [rng.choice(recent if rng.random() < 0.5 else list(known)) for _ in range(rng.randint(1, 3))]
        names = list(dict.fromkeys(drawn))
    reads = [_read(rng, n, known[n], target) for n in names]
    value = reads[0]
    for r in reads[1:]:
        value = f"{value} {rng.choice('***+-')} {r}"
    shape = rng.randint(0, 9)
    if shape == 9 and len(reads) > 1:
        value = f"select({_predicate(rng, target)}, {reads[0]}, {' * '.join(reads[1:])})"
    elif shape >= 7:
        value = f"exp({value})"
    found = {v for v in "mpe" if any(_has(r, v) for r in reads)}
    reduced = [v for v in "mpe" if v in found and v not in target]
    line = f"{name}[{', '.join(target)}] = {value}"
    if reduced:
        line += f" :: {rng.choice(['sum', 'max'])}({', '.join(reduced)})"
    if rng.randint(0, 7) == 0:
        line += f" where {_predicate(rng, (*target, *reduced))}"
    known[name] = kept
    return line


def _twice(rng: random.Random, known: dict[str, tuple[str, ...]]) -> list[str]:
    """Return Einsums of which one waits for a value of a whole fiber and walks it again."""
    lines = []
    source = rng.choice(list(known))
    if rng.random() < 0.5:  # what is walked twice is made in the text
        lines.append(_einsum(rng, known, "T"))
        source = "T"
    ranks = tuple(r for r in known[source] if r != "M")
    kept = tuple(r for r in ranks if rng.randint(0, 3))
    lines.append(_einsum(rng, known, "G", names=[source], kept=kept))
    others = [rng.choice(list(known))] if rng.random() < 0.5 else []
    after = rng.choice([kept, known[source], ranks, ("M", "P"), ()])
    lines.append(_einsum(rng, known, "Y", names=list(dict.fromkeys([source, "G", *others])), kept=after))
    return lines


def _has(read: str, variable: str) -> bool:
    return variable in read.replace("pad", "").replace("clamp", "")


def _read(rng: random.Random, name: str, ranks: tuple[str, ...], target: tuple[str, ...]) -> str:
    indices = []
    for axis, rank in enumerate(ranks):
        if name == "R" and axis == 0:
            indices.append(rng.choice(["M", "m", "m+1", "M", "0"]))
            continue
        v = rank.lower()
        kind = rng.randint(0, 79)
        shapes = {0: f"{v}+1", 1: f"{v}-1", 2: "0", 3: f"{v}//2", 4: f"{rank}-1-{v}"}
        if kind == 5:
            shapes[5] = rng.choice(target) if target else v
        if kind == 6:
            shapes[6] = f"clamp({v}-1, 0, {rank}-1)"
        indices.append(shapes.get(kind, v))
    text = f"{name}[{', '.join(indices)}]"
    return f"pad({text}, 0)" if rng.randint(0, 19) == 0 else text


def _predicate(rng: random.Random, space: tuple[str, ...]) -> str:
    if not space:
        return "M > 1"
    left = rng.choice(space)
    right = rng.choice([*space, "1", "2", "0"])
    return f"{left} {rng.choice(['<', '<=', '!=', '>', '>=', '=='])} {right}"


def _recurrence(rng: random.Random, known: dict[str, tuple[str, ...]]) -> list[str]:
    """Return a block that walks M with one state, by whole rows of P or by single words."""
    ranks = rng.choice([(), ("P",)])
    free = "".join(f", {r.lower()}" for r in ranks)
    source = rng.choice(list(known))
    index = [r.lower() for r in known[source]]
    read = f"{source}[{', '.join(index)}]"
    local = ", ".join(["m", *(r.lower() for r in ranks)])
    reduced = [v for v in index if v != "m" and v.upper() not in ranks]
    tail = f" :: sum({', '.join(reduced)})" if reduced else ""
    known["L"] = ("M", *ranks)
    known["R"] = ("M", *ranks)
    return [
        f"R[0{free}] = 0",
        "iterate m {",
        f"  L[{local}] = {read}{tail}",
        f"  R[m+1{free}] = R[m{free}] * L[{local}]",
        "}",
    ]
