"""Random spatial chips as text of hardware files, and random mappings of a cascade on a chip, legal or not."""

from __future__ import annotations

import random
from collections.abc import Mapping

from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.ops import COST_CLASSES
from mappings.binding import Binding, SpatialMapping
from mappings.loopnest import EinsumLoops, LoopNest
from simulator.hardware.model import SpatialChip

UNITS = ("mac", "add", "max", "exp", "divide")


def random_machine(rng: random.Random) -> str:
    """Return the text of a chip of one to three arrays and any number of memories; the first array does everything."""
    word = rng.choice([0.5, 1, 2, 2, 4])
    dram = (
        f"bandwidth: {rng.choice([0.1, 1, 10, 1000])} GB/s, capacity: {rng.choice(['inf', 'inf', '1 MiB'])}"
    )
    lines = ["kind: spatial", "name: random", f"clock: {rng.choice([0.5, 1, 1.7])} GHz", f"word: {word} B"]
    lines += ["memories:", f"  DRAM: {{component: dram, kind: hbm2, row: 8 B, {dram}}}"]
    for i in range(rng.choice([0, 1, 1, 1, 1, 2, 3])):
        words, rate = (
            rng.choice([4, 7, 16, 24, 64, 256, 1024]),
            rng.choice(["inf", "inf", "1 GB/s", "10 GB/s"]),
        )
        lines.append(
            f"  B{i}: {{component: sram, capacity: {words * word} B, row: {word} B, bandwidth: {rate}}}"
        )
    arrays = [f"A{i}" for i in range(rng.choice([1, 1, 2, 2, 3]))]
    for name in arrays:
        if rng.random() < 0.15:
            lines.append(f"  C{name}: {{component: wires, row: {word} B, of: {name}}}")
        if rng.random() < 0.85:
            size = rng.choice([1, 2, 3, 4, 8, 16]) * word
            kind = f"component: registers, capacity: {size} B, row: {word} B"
            lines.append(f"  R{name}: {{{kind}, of: {name}, per_element: true}}")
    lines.append("arrays:")
    lines += [_array(rng, name, everything=name == "A0") for name in arrays]
    if rng.random() < 0.3:
        lines.append(f"static_power: {rng.choice([0.1, 10])} W")
    return "\n".join(lines) + "\n"


def _array(rng: random.Random, name: str, *, everything: bool) -> str:
    shape = [rng.choice([1, 2, 2, 3, 4, 4, 5, 8]) for _ in range(rng.choice([1, 2, 2, 2, 3]))]
    units = sorted(rng.sample(UNITS, rng.randint(1, 3)))
    does = COST_CLASSES if everything or rng.random() < 0.5 else rng.sample(COST_CLASSES, rng.randint(1, 6))
    ops = ", ".join(f"{op}: {{{rng.choice(units)}: {rng.choice([1, 1, 1, 2, 6])}}}" for op in does)
    pipelined = str(rng.random() < 0.4).lower()
    return (
        f"  {name}: {{shape: {shape}, units: [{', '.join(units)}], pipelined: {pipelined}, ops: {{{ops}}}}}"
    )


def tight_machine(rng: random.Random) -> str:
    """Return the text of a chip of one or two elements and a few words of memory."""
    buffer, registers, lanes = rng.choice([6, 8, 12, 16, 24]), rng.choice([1, 3]), rng.choice([1, 2])
    ops = ", ".join(f"{op}: {{mac: 1}}" for op in COST_CLASSES)
    return (
        "kind: spatial\nname: tight\nclock: 1 GHz\nword: 2 B\nmemories:\n"
        "  DRAM: {component: dram, kind: hbm2, bandwidth: 10 GB/s, row: 8 B}\n"
        f"  B0: {{component: sram, capacity: {2 * buffer} B, row: 2 B}}\n"
        f"  RA0: {{component: registers, capacity: {2 * registers} B, row: 2 B, of: A0, per_element: true}}\n"
        f"arrays:\n  A0: {{shape: [{lanes}], units: [mac], ops: {{{ops}}}}}\n"
    )


def random_mapping(
    rng: random.Random, cascade: Cascade, sizes: Mapping[str, int], chip: SpatialChip
) -> SpatialMapping:
    """Return a mapping of a cascade on the first array of a chip that nobody has checked.

    Loops of all Einsums stand in one order more often than not, inputs and outputs are mostly kept outside, and so on:
    else hardly any of them would be accepted.
    """
    array, outermost = next(iter(chip.arrays)), chip.outermost
    shared = [n for n, m in chip.memories.items() if not m.of]
    split, given = _splits(rng, cascade, sizes)
    order = [p for r in cascade.rank_names for p in split.get(r, (r,))]
    rng.shuffle(order)
    level = {p: rng.choice(shared) for p in order}
    ends = {s.tensor for s in (*cascade.inputs, *cascade.outputs)}
    nests: dict[str, EinsumLoops] = {}
    keep: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in chip.memories}
    phases: dict[str, list[dict[str, tuple[str, ...]]]] = {}
    phase = 0
    for e in (e for e in cascade.einsums if not cascade.is_initial(e, cascade.block_of(e.name))):
        phase += rng.random() < 0.3
        phases.setdefault(f"p{phase}", []).append({array: (e.name,)})
        own = {p for v in e.variables for p in split.get(rank_of(v), (rank_of(v),))}
        loops = [p for p in order if p in own]
        if rng.random() < 0.3:
            rng.shuffle(loops)
        wide: list[str] = []
        for length in chip.arrays[array].shape:
            fit = [p for p in loops if given.get(p, sizes.get(p, length + 1)) <= length and p not in wide]
            wide.append(rng.choice(fit) if fit and rng.random() < 0.7 else "")
        at = level if rng.random() < 0.7 else {p: rng.choice(shared) for p in order}
        time = {m: tuple(p for p in loops if p not in wide and at[p] == m) for m in shared}
        nests[e.name] = EinsumLoops(time, tuple(wide))
        for memory in chip.memories:
            chance = {t: 0.7 if memory != outermost else 0.95 if t in ends else 0.2 for t in _tensors(e)}
            keep[memory][e.name] = tuple(t for t, p in chance.items() if rng.random() < p)
    steps = {name: tuple(of) for name, of in phases.items()}
    return SpatialMapping(LoopNest(cascade.name, nests, split, given), Binding(keep, steps), "random")


def _tensors(einsum: Einsum) -> list[str]:
    return list(dict.fromkeys([*(a.tensor for a in einsum.reads), einsum.name]))


def _splits(
    rng: random.Random, cascade: Cascade, sizes: Mapping[str, int]
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    split: dict[str, tuple[str, ...]] = {}
    given: dict[str, int] = {}
    for rank in cascade.rank_names:
        if rng.random() < 0.5 and sizes[rank] > 1:
            split[rank] = tuple(f"{rank}_{i}" for i in range(rng.choice([2, 3])))
            left = sizes[rank]
            for part in split[rank][1:]:
                legal = [n for n in range(1, left + 1) if left % n == 0 or rng.random() < 0.1]
                given[part] = rng.choice(legal)
                left = max(1, left // given[part])
    return split, given
