"""The zoo against its formulas, its passes against the seed papers' table, and headline claims by counting."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

from einsum_cascade import zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.sizes import resolve

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("case", "column", "expected", "got", "relative_error", "ok", "tolerance", "why")
DRAWS = 5
ROUNDING = 1e-10
SUMS = "two float64 formulas that add in another order, at random sizes below 15"

# What the papers say and counting cannot: kept here so that a reader does not look for it in vain.
NOT_REPRODUCED = {
    "S36 ECA: 4.7e-4 GFLOPs": "the multiply-accumulates of the gate are fewer; what else was counted is not said",
    "S16 SHViT: 3.3x on a GPU": "a measured time of the whole network",
    "S29 RCMHA: 2.98 GB": "the configuration is not given",
    "S01 S02 S06 S11 S17 S18 S23 S25 S27 S39": "accuracy or score, not cost",
}

Case = dict[str, Any]


def cases() -> pd.DataFrame:
    """Return everything that is compared: one row a number, with its tolerance and the reason for it."""
    import pandas as pd

    return pd.DataFrame([*_values(), *_passes(), *_claims()], columns=list(COLUMNS))


def table() -> list[dict[str, str]]:
    """Return the rows of the seed papers: cascade, seed_name, papers, passes, best, unsure."""
    text = resources.files(zoo).joinpath("seeds.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _case(name: str, column: str, expected: float, got: float, tolerance: float, why: str) -> Case:
    error = abs(got - expected) / abs(expected) if expected else abs(got)
    return dict(
        zip(COLUMNS, (name, column, expected, got, error, error <= tolerance, tolerance, why), strict=True)
    )


def _values() -> Iterator[Case]:
    """Largest difference between a cascade and its formula on random draws, relative to the largest output."""
    from einsum_cascade.evaluator import difference, evaluate
    from einsum_cascade.zoo import reference

    for name in zoo.names():
        cascade, formula = zoo.load(name), reference.reference(name).formula
        for seed in range(DRAWS):
            sizes, inputs = reference.draw(name, seed=seed)
            found = evaluate(cascade, sizes, inputs)
            wanted = formula(inputs, resolve(cascade, sizes))
            worst = max(difference(found[t], wanted[t]) for t in wanted)
            yield _case(name, f"difference, draw {seed}", 0.0, worst, ROUNDING, SUMS)


def _passes() -> Iterator[Case]:
    from einsum_cascade.analysis.passes import passes

    why = "a count: by the definition of a pass, derived independently for the seed table"
    for row in table():
        for item in row["passes"].split():
            rank, _, count = item.partition(":")
            got = passes(zoo.load(row["cascade"]), rank).count
            yield _case(row["cascade"], f"passes over {rank}", int(count), got, 0.0, why)


def macs(cascade: Cascade | str, sizes: dict[str, int], *, only: tuple[str, ...] = ()) -> int:
    """Return the multiply-accumulates of a cascade, or of some of its Einsums, masked points included.

    >>> macs("gemm", {"M": 2, "N": 3, "K": 5})
    30
    """
    cascade = zoo.load(cascade) if isinstance(cascade, str) else cascade
    known = resolve(cascade, sizes)
    total = 0
    for e in cascade.einsums:
        for action in e.actions:
            if action.op == "mac" and (not only or e.name in only):
                total += action.count * math.prod(known[rank_of(v)] for v in action.variables)
    return total


def _linear(tokens: int, *widths: int) -> int:
    """Multiply-accumulates of matrix products of some tokens through layers of these widths."""
    return sum(macs("gemm", {"M": tokens, "N": b, "K": a}) for a, b in itertools.pairwise(widths))


def _claims() -> Iterator[Case]:
    yield from _evit()
    yield from _saisa()
    yield from _sparsifiner()
    yield from _routing()
    yield from _linear_attention()
    yield from _local()
    yield from _ring()


def _evit() -> Iterator[Case]:
    """DeiT-S: 12 blocks of width 384; tokens are dropped inside blocks 4, 7 and 10, before the feed-forward part."""
    width, heads = 384, 6

    def network(keep: float) -> float:
        tokens, total = 197, _linear(196, 768, width) + _linear(1, width, 1000)
        for block in range(1, 13):
            attention = {"H": heads, "E": 64, "F": 64, "M": tokens, "P": tokens}
            total += _linear(tokens, width, 3 * width) + _linear(tokens, width, width)
            total += macs("head_distance", attention, only=("QK", "AV"))
            if block in (4, 7, 10) and keep < 1:
                tokens = math.ceil((tokens - 1) * keep) + 2  # the class token and the fused one stay
            total += _linear(tokens, width, 4 * width, width)
        return total / 1e9

    why = "rounding of the published figure; patch embedding and classifier are counted"
    for keep, published in ((1.0, 4.6), (0.9, 4.0), (0.8, 3.5), (0.7, 3.0), (0.6, 2.6), (0.5, 2.3)):
        yield _case("S30 EViT, DeiT-S", f"GMACs at keep rate {keep}", published, network(keep), 0.02, why)
    bound = network(1.0) / network(0.7)
    yield _case(
        "S30 EViT, DeiT-S", "speedup bound at 0.7", 1.5, bound, 0.05, "the claim is a measured throughput"
    )


def _saisa() -> Iterator[Case]:
    """One layer of a 7B model with 576 visual tokens: queries, outputs and feed-forward of text tokens only."""
    visual, width, hidden = 576, 4096, 11008

    def cut(text: int) -> float:
        both = visual + text
        full = _linear(both, width, 4 * width) + 3 * _linear(both, width, hidden)
        full += macs("attention_3pass", {"E": width, "F": width, "M": both, "P": both})
        ours = (
            _linear(text, width, 2 * width)
            + _linear(both, width, 2 * width)
            + 3 * _linear(text, width, hidden)
        )
        ours += macs("naavit", {"E": width, "F": width, "M": both, "P": text})
        ours += _linear(visual, 1024, width, width)  # the layer's own projector of visual tokens
        return 1 - ours / full

    yield _case(
        "S14 SAISA, 7B", "MACs cut at 64 text tokens", 0.66, cut(64), 0.02, "the paper's 66 % has two digits"
    )


def _sparsifiner() -> Iterator[Case]:
    """DeiT-S attention with rank 32 and 24 basis vectors; the coefficients are dense, or one in ten is kept."""

    def cut(keep: float, kept_coefficients: float) -> float:
        sizes = {"E": 64, "F": 64, "M": 197, "P": 197, "R": 32, "N": 24, "J": round(keep * 197)}
        basis = macs("sparsifiner", sizes, only=("AP",))
        ours = macs("sparsifiner", sizes) - (1 - kept_coefficients) * basis
        return 1 - ours / macs("attention_3pass", {"E": 64, "F": 64, "M": 197, "P": 197})

    why = "the paper's range over its settings; rank and basis are inferred from it"
    yield _case(
        "S09 Sparsifiner", "MACs cut, a tenth kept, dense coefficients", 0.48, cut(0.1, 1.0), 0.03, why
    )
    yield _case(
        "S09 Sparsifiner", "MACs cut, a twentieth kept, sparse coefficients", 0.69, cut(0.05, 0.1), 0.03, why
    )


def _routing() -> Iterator[Case]:
    """Square root of n clusters of as many members: the work grows as n to the power 1.5."""
    why = "the square root is rounded to whole clusters and members; norms add 2 per token"
    for n in (4096, 65536):
        members = math.isqrt(n)
        sizes = {"E": 64, "F": 64, "M": n, "P": n, "C": members, "I": members}
        got = macs("routing", sizes) / 64
        yield _case(
            "S21 Routing", f"MACs per unit of width at n={n}, against 4 n^1.5", 4 * n**1.5, got, 0.02, why
        )


def _linear_attention() -> Iterator[Case]:
    why = "a count"
    for n in (8192, 65536):
        sizes = {"E": 128, "F": 128, "T": n, "T0": 64}
        got = macs("linear_chunked", sizes) / n
        yield _case("S44 Lightning-2", f"MACs per token at n={n}", 49152, got, 0.0, why)
    per_pair = macs("attention_causal", {"E": 128, "F": 128, "M": 1024, "P": 1024}) / 1024**2
    chunk = macs("linear_chunked", {"E": 128, "F": 128, "T": 1024, "T0": 64}) / 1024
    yield _case(
        "S44 Lightning-2", "length beyond which it beats the left product", 192, chunk / per_pair, 0.0, why
    )
    scores = zoo.load("tnl_quadratic").signatures["QK"].ranks
    mebibytes = 2 * 8192 ** len(scores) / 2**20
    yield _case(
        "S03 TransNormerLLM", "MiB of fp16 scores a head at n=8192, unfused", 128, mebibytes, 0.0, why
    )


def _local() -> Iterator[Case]:
    why = "a count"
    halo = resolve(zoo.load("halo_attention"), {"E": 1, "F": 1, "R": 3, "N1": 8, "N0": 8})
    yield _case(
        "S22 HaloNet",
        "keys loaded per query, block 8, halo 3",
        3.0625,
        (halo["W"] / halo["N0"]) ** 2,
        0.0,
        why,
    )
    blocks = 32768 // 51
    sizes = {"E": 1, "G": blocks, "T": 50, "R": 4, "P": 1}
    touched = macs("landmark_retrieval", sizes) + 50  # and the query's own block
    yield _case(
        "S12 Landmark", "keys touched per query at n=32768, blocks of 50, 4 fetched", 892, touched, 0.0, why
    )
    channel = macs("davit_channel", {"C": 32, "N": 1024}) / (32 * 1024)
    yield _case("S42 DaViT", "MACs per token and channel, groups of 32 channels", 64, channel, 0.0, why)
    window = macs("attention_3pass", {"E": 32, "F": 32, "M": 49, "P": 49}) / (32 * 49)
    yield _case("S42 DaViT", "MACs per token and channel, windows of 7 x 7", 98, window, 0.0, why)
    blocks = {256: 3, 512: 4, 1024: 6, 2048: 3}  # of ResNet-50, by channels
    got = sum(k * n for k, n in zip((3, 5, 5, 7), blocks.values(), strict=True))
    yield _case("S36 ECA-Net50", "parameters, kernel widths as released", 80, got, 0.0, why)
    got = sum(_eca_width(channels) * n for channels, n in blocks.items())
    yield _case(
        "S36 ECA-Net50",
        "parameters, kernel widths by the formula",
        86,
        got,
        0.0,
        "the formula misses the claim of 80",
    )


def _eca_width(channels: int) -> int:
    """Width of ECA's kernel: the nearest odd number to log2(C)/2 + 1/2, rounded down first, as in its code."""
    width = int(abs(math.log2(channels) / 2 + 0.5))
    return width if width % 2 else width + 1


def _ring() -> Iterator[Case]:
    """BERT Base on cards of 16 GB: 12 cards share the heads, or 64 cards share the sequence."""
    shared_heads, shared_sequence = _activations(512, heads=12), _activations(512, sequence=64)
    yield _case(
        "S26 RSA, BERT Base",
        "largest batch at length 512, by activations",
        13.7,
        shared_heads / shared_sequence,
        0.15,
        "the claim is a measured limit; memory formulas of the paper as recalled, without embeddings and framework",
    )
    longest = {how: _longest(64, **{how: cards}) for how, cards in (("heads", 12), ("sequence", 64))}
    yield _case(
        "S26 RSA, BERT Base",
        "longest sequence at batch 64, with weights and optimiser",
        3.0,
        longest["sequence"] / longest["heads"],
        0.1,
        "as above; the published length is a multiple of what was tried",
    )


_WIDTH, _HEADS, _LAYERS, _CARD_BYTES = 768, 12, 12, 16e9


def _activations(length: int, *, heads: int = 1, sequence: int = 1) -> float:
    """Return the elements that a layer keeps on one card for one sample: feed-forward part, then attention.

    Source: Sequence Parallelism (arXiv 2105.13120), tables 1 and 2, as recalled.
    """
    scores, row = _HEADS * length**2, length * _WIDTH
    if sequence > 1:
        return (5 * row + 4 * row + scores + row) / sequence
    return 4 * row / heads + row + (4 * row + scores) / heads + row


def _longest(batch: int, *, heads: int = 1, sequence: int = 1) -> int:
    """Return the longest sequence whose activations fit beside weights, gradients and the optimiser's two moments."""
    layer = 4 * (8 * _WIDTH**2 + 4 * _WIDTH**2) / heads
    free = _CARD_BYTES / 4 / _LAYERS - layer
    low, high = 1, 2**20
    while high - low > 1:
        middle = (low + high) // 2
        fits = batch * _activations(middle, heads=heads, sequence=sequence) <= free
        low, high = (middle, high) if fits else (low, middle)
    return low
