"""What the kernels of a cascade ask of memory: places that are read, tiles that a `where` leaves, loops run twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from einsum_cascade import evaluate, parse, zoo
from einsum_cascade.analysis.points import known_sizes
from simulator.gpu.fusion.case import Case
from simulator.gpu.fusion.held import held_of
from simulator.gpu.fusion.idle import idle_of
from simulator.gpu.fusion.predict import kernels_of, predict_cascade
from simulator.gpu.fusion.structure import structure_of, units_of
from simulator.gpu.fusion.tiling import STEP, Tiling
from simulator.gpu.fusion.work import work_of
from simulator.gpu.model import predict
from simulator.hardware.gpu import find_gpu

# What a loop does with a sum, or a maximum, over points that a mask leaves.
IDLE = [
    "A[t, f] = X[t, j, f] :: sum(j) where {mask}; S[t + 1, f] = S[t, f] + A[t, f]",
    "A[t, f] = X[t, j, f] :: sum(j) where {mask}; S[t + 1, f] = 0.5 * S[t, f] + A[t, f]",
    "A[t, f] = X[t, j, f] :: sum(j) where {mask}; S[t + 1, f] = S[t, f] * exp(0 - A[t, f])",
    "A[t, f] = X[t, j, f] :: sum(j) where {mask}; S[t + 1, f] = S[t, f] * A[t, f]",
    "A[t, f] = X[t, j, f] :: sum(j) where {mask}; S[t + 1, f] = A[t, f] - S[t, f]",
    "A[t, f] = X[t, j, f] :: max(j) where {mask}; S[t + 1, f] = max(S[t, f], A[t, f])",
    "A[t, f] = X[t, j, f] :: prod(j) where {mask}; S[t + 1, f] = S[t, f] / A[t, f]",
    "A[t, f] = X[t, j, f] :: prod(j) where {mask}; S[t + 1, f] = S[t, f] + A[t, f]",
    "A[t, j, f] = 0 - X[t, j, f] where {mask}; B[t, f] = A[t, j, f] :: sum(j); S[t + 1, f] = min(S[t, f], B[t, f])",
    "A[t, j, f] = X[t, j, f] where {mask}; B[t, f] = pad(A[t, 0, f], 1); S[t + 1, f] = S[t, f] + B[t, f]",
]

H100 = find_gpu("h100")
WORD = 2.0


@pytest.mark.parametrize(
    ("reading", "most"),
    [
        ("X[3, p]", 512),  # one row
        ("X[T[p], p]", 512 + 512),  # a row for each p, and the table
        ("X[T[q], p]", 8 * 512 + 8),
        ("X[2 * q, p]", 8 * 512),
        ("X[q + r, p]", 15 * 512),  # eight places and eight more, seven of them the same
        ("X[q, p] + X[q + 1, p]", 2 * 8 * 512),  # nine rows; each reading is bounded by itself
        ("X[m, p]", 64 * 512),
        ("X[m, p] + X[M - 1 - m, p]", 64 * 512),  # twice all of it is all of it
    ],
)
def test_no_more_is_read_than_somebody_points_at(reading: str, most: int) -> None:
    """Places counted by hand: a look-up in a table of 64 rows reads the rows it comes to, not the table."""
    kept = ", ".join(v for v in "mqrp" if any(f"{v}{end}" in reading for end in (",", "]", " ")))
    ranks = ", ".join(v.upper() for v in kept.split(", "))
    table = "T[P]" if "T[p]" in reading else "T[Q]" if "T[q]" in reading else ""
    text = f"cascade c\nrank M P Q R\ninput X[M, P] {table}\noutput Y[{ranks}]\nY[{kept}] = {reading}\n"
    cascade = parse(text)
    sizes = known_sizes(cascade, {"M": 64, "P": 512, "Q": 8, "R": 8})
    (kernel,) = kernels_of(cascade, sizes, H100)
    assert kernel.work.reads == WORD * most


def test_a_look_up_takes_what_its_rows_do():
    """Sixteen rows of a table of a gigabyte: 128 KB, not a gigabyte, whose reading takes 0.4 ms."""
    text = "cascade c\nrank V D N\ninput W[V, D] T[N]\noutput Y[N, D]\nY[n, d] = W[T[n], d] * 2\n"
    found = predict_cascade(parse(text), "V=128K,D=4096,N=16", on="h100")
    assert found.latency_s < 10e-6
    every = predict_cascade(parse(text), "V=128K,D=4096,N=1M", on="h100")
    assert every.latency_s > WORD * 4096 * (2**17 + 2**20) / H100.memory_bandwidth_bytes_per_s


WINDOW = """cascade w
rank E F M P W
input Q[E, P] K[E, M] V[F, M]
output O[F, P]
S[m, p] = Q[e, p] * K[e, m] where 0 <= p - m < W
X[m, p] = exp(S[m, p])
O[f, p] = X[m, p] * V[f, m]
"""


@pytest.mark.parametrize("window", [1, 100, 128, 1000, 4096])
@pytest.mark.parametrize("length", [1024, 4096])
def test_a_window_loads_the_tiles_that_it_leaves(window: int, length: int) -> None:
    """Tiles of keys listed one by one: those with a key that some query of the block sees."""
    sizes = f"E=64,F=32,M={length},P={length},W={window}"
    (kernel,) = kernels_of(parse(WINDOW), sizes, H100, kernels=[["S", "X", "O"]])
    parts = kernel.work.parts  # blocks that share a tile of queries
    tiles = kernel.work.blocks // parts
    rows = length // tiles
    seen = sum(
        any(
            0 <= p - m < window
            for p in (i * rows, (i + 1) * rows - 1)
            for m in (j * STEP, (j + 1) * STEP - 1)
        )
        or (i * rows < (j + 1) * STEP and j * STEP < (i + 1) * rows)
        or 0 < i * rows - (j + 1) * STEP + 1 < window
        for i, j in itertools.product(range(tiles), range(length // STEP))
    )
    queries = WORD * 64 * length
    assert kernel.work.loads * kernel.work.blocks == pytest.approx(
        parts * queries + seen * WORD * STEP * (64 + 32)
    )
    assert kernel.work.steps == -(-seen // kernel.work.blocks)


def test_a_window_takes_as_long_as_its_tokens_not_their_square():
    times = [
        predict_cascade(parse(WINDOW), f"E=128,F=128,M={n},P={n},W=128,H=8", on="h100").latency_s
        for n in (16384, 65536)
    ]
    assert times[1] == pytest.approx(4 * times[0], rel=0.2)


@pytest.mark.parametrize("window", [128, 1024])
def test_the_text_and_the_description_of_a_window_agree_within_the_interval(window: int) -> None:
    size = {"E": 128, "F": 128, "M1": 256, "M0": 64, "P": 16384, "W": window, "H": 8}
    ours = predict_cascade(zoo.load("attention_1pass_sliding_window"), size, on="h100")
    theirs = predict(
        "flash_attention", on="h100", batch=1, heads=8, seq_q=16384, head_dim=128, window=window, causal=True
    )
    assert ours.low_s < theirs.latency_s < ours.high_s


LOOP = """cascade c
rank F T
input X[T, F] B[F]
output Z[F]
Y[f] = {first}
S[0, f] = {begin}
iterate t {{
  S[t + 1, f] = S[t, f] + {step}
}}
Z[f] = S[T, f]
"""


@pytest.mark.parametrize(
    ("first", "begin", "step", "blocks"),
    [
        ("exp(B[f])", "Y[f]", "X[t, f]", ("f",)),
        # A block begins with what another one would have made.
        ("exp(B[f])", "Y[F - 1 - f]", "X[t, f]", ()),
        ("exp(B[f])", "Y[0]", "X[t, f]", ()),
        # All steps of a sum before the first of the loop: no block walks along both at once.
        ("X[t, f] :: sum(t)", "Y[f]", "X[t, f]", None),
        ("X[t, f] :: sum(t)", "0", "X[t, f] - Y[f]", None),
        ("X[t, f] :: sum(t)", "0", "X[t, f]", ("f",)),
    ],
)
def test_what_a_loop_begins_with_is_there_before_it(first, begin, step, blocks):
    cascade = parse(LOOP.format(first=first, begin=begin, step=step))
    found = structure_of(cascade, units_of(cascade)[:2])
    assert blocks == (found and found.blocks)


def test_what_a_state_begins_with_is_computed():
    text = LOOP.format(first="exp(B[f])", begin="exp(B[f]) + exp(X[0, f])", step="X[t, f]")
    kernels = kernels_of(parse(text), "F=512,T=64", H100)
    done = {k.einsums: k.work.exp * k.work.blocks for k in kernels}
    assert sum(done.values()) == 3 * 512


@pytest.mark.parametrize("step", IDLE)
def test_a_step_without_points_is_left_out_only_where_it_changes_nothing(step: str) -> None:
    """Run with a mask that leaves no point in any step: what is idle ends as it began, and the rest does not."""
    lines = "".join(f"  {line}\n" for line in step.format(mask="t + j < W").split("; "))
    text = "cascade c\nrank F J T W\ninput X[T, J, F] Z[F]\noutput Y[F]\nS[0, f] = Z[f]\n"
    cascade = parse(f"{text}iterate t {{\n{lines}}}\nY[f] = S[T, f]\n")
    (loop,) = (u for u in units_of(cascade) if u.loop)
    numbers = np.random.default_rng(3)
    inputs = {"X": numbers.uniform(0.5, 2.0, (3, 3, 5)), "Z": numbers.uniform(0.5, 2.0, 5)}
    masked = parse(str(cascade).replace("< W", "< 0"))
    found = evaluate(masked, {"F": 5, "J": 3, "T": 3, "W": 2}, inputs)["Y"]
    assert bool(idle_of(cascade, loop.einsums, "t")) == np.array_equal(found, inputs["Z"])


def test_what_somebody_reads_of_every_step_is_made_in_every_step():
    text = "cascade c\nrank F J T W\ninput X[T, J, F]\noutput Y[F] R[T, F]\nS[0, f] = 0\niterate t {\n"
    text += "  A[t, f] = X[t, j, f] :: sum(j) where t + j < W\n  R[t, f] = S[t, f] * 2\n"
    cascade = parse(text + "  S[t + 1, f] = S[t, f] + A[t, f]\n}\nY[f] = S[T, f]\n")
    (loop,) = (u for u in units_of(cascade) if u.loop)
    assert not idle_of(cascade, loop.einsums, "t")


MASKED = """cascade c
rank M P
input X[M, P]
output Y[P]
Y[p] = X[m, p] :: sum(m) where {}
"""


@pytest.mark.parametrize(
    "where",
    ["m <= p", "m >= p", "m + 300 < p", "0 <= p - m < 200", "m + p < P", "m < 64 or m <= p", "m >= 0"],
)
@pytest.mark.parametrize("tile", [32, 100, 128])
def test_the_fullest_block_is_found(where: str, tile: int) -> None:
    """Steps of every block listed: those with a point for which the mask holds."""
    length = 1024
    cascade = parse(MASKED.format(where))
    structure = structure_of(cascade, units_of(cascade))
    tiling = Tiling(Case(cascade, {"M": length, "P": length}, 1, WORD, True), structure, {"p": tile})
    m, p = np.indices((length, length))
    holds = eval(
        where.replace(" or ", ") | (").replace("0 <= p - m < 200", "(p - m >= 0) & (p - m < 200)").join("()"),
        {"m": m, "p": p, "P": length},
    )
    steps = np.add.reduceat(np.add.reduceat(holds, range(0, length, STEP), 0), range(0, length, tile), 1) > 0
    work = work_of(tiling, H100, held=held_of(tiling, H100), group_rows=16, written=frozenset("Y"))
    most = steps.sum(axis=0).max()
    assert most - (tile < STEP) <= work.fullest <= most  # of a band, tiles lie across more steps or fewer
    assert work.steps == -(-steps.sum() // steps.shape[1])


def test_few_blocks_take_what_the_fullest_takes() -> None:
    """Four heads of 4,096 tokens are fewer blocks than SMs: half the scores, and the last block has all of its own."""
    sizes = "E=128,F=128,M1=64,M0=64,P=4096,H={}"
    few, many = (
        [
            predict_cascade(zoo.load(name), sizes.format(heads), on="h100").latency_s
            for name in ("attention_1pass_causal", "attention_1pass")
        ]
        for heads in (4, 256)
    )
    assert few[0] == pytest.approx(few[1], rel=0.1)
    assert many[0] == pytest.approx(many[1] / 2, rel=0.1)
