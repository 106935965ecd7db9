"""Cascades laid out as kernels: which ranks may tell blocks apart, what a tile computes, what is read and written."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from fused import structures
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Use, uses

from einsum_cascade import parse, zoo
from einsum_cascade.analysis.bounds import bounds
from einsum_cascade.analysis.intervals import number
from einsum_cascade.analysis.points import batch_of, known_sizes, numbers_of
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import rank_of
from einsum_cascade.einsum import Einsum
from einsum_cascade.errors import MappingError, ModelError
from einsum_cascade.expr import Expr, Var, accesses
from simulator.gpu.fusion.case import Case
from simulator.gpu.fusion.operations import actions_of
from simulator.gpu.fusion.predict import WAYS, kernels_of, predict_cascade
from simulator.gpu.fusion.structure import Structure, structure_of, units_of
from simulator.gpu.fusion.tiling import Tiling
from simulator.gpu.model import predict
from simulator.hardware.gpu import find_gpu

H100 = find_gpu("h100")


def places(einsum: Einsum, index: Expr, sizes: dict[str, int], names: dict[str, float]) -> np.ndarray:
    """Return the value of an index at every point of an Einsum, as an array of its whole space."""
    grid = np.indices([sizes[rank_of(v)] for v in einsum.variables])
    at = dict(zip(einsum.variables, grid, strict=True))
    shape = grid.shape[1:]
    return np.broadcast_to(np.asarray(number(index, at, names)), shape).astype(int)


def own_places(einsum: Einsum, variable: str, sizes: dict[str, int]) -> np.ndarray:
    """Return the value of a variable at every point of an Einsum."""
    return np.indices([sizes[rank_of(v)] for v in einsum.variables])[einsum.places[variable]]


def needs_other_blocks(cascade: Cascade, found: Structure, sizes: dict[str, int]) -> bool:
    """Tell, point by point, whether a block reads what another block of the same kernel has made."""
    names = numbers_of(cascade, sizes)
    writers = {e.name: e for e in found.einsums}
    for reader, variable in itertools.product(found.einsums, found.blocks):
        mine = own_places(reader, variable, sizes)
        for access in (a for a in reader.reads if a.tensor in writers):
            made_at = writers[access.tensor].target.indices
            axes = [i for i, made in enumerate(made_at) if made == Var(variable)]
            assert axes, "a variable that tells blocks apart is kept by every Einsum"
            for axis in axes:
                index = access.indices[axis]
                if accesses(index) or (places(reader, index, sizes, names) != mine).any():
                    return True
    return False


@pytest.mark.parametrize("name", zoo.names())
def test_a_block_needs_nothing_of_another_block(name: str) -> None:
    cascade = zoo.load(name)
    sizes = known_sizes(cascade, dict.fromkeys(cascade.free_ranks, 3))
    for found in structures(cascade):
        assert not needs_other_blocks(cascade, found, sizes)


@settings(max_examples=60, deadline=None)
@given(use=uses())
def test_a_block_of_a_random_cascade_needs_nothing_of_another(use: Use) -> None:
    sizes = known_sizes(use.cascade, use.sizes)
    for found in structures(use.cascade):
        assert not needs_other_blocks(use.cascade, found, sizes)


@pytest.mark.parametrize("name", zoo.names())
def test_what_is_walked_once_is_not_needed_again(name: str) -> None:
    """Of a variable that is walked nobody who waits for a sum over it has a point of its own along it."""
    cascade = zoo.load(name)
    for found in structures(cascade):
        for variable in (v for v in found.walked if v != found.loop):
            waiting: set[str] = set()
            for einsum in found.einsums:  # in the order in which they run
                read = {a.tensor for a in einsum.reads if not cascade.reads_previous(a)}
                if read & waiting:
                    assert variable not in einsum.variables
                    waiting.add(einsum.name)
                if variable in einsum.reduced:
                    waiting.add(einsum.name)


@pytest.mark.parametrize(
    ("name", "units", "blocks", "walked"),
    [
        ("attention_3pass", ["QK", "GM"], ("p",), ("m", "e")),
        ("attention_3pass", ["QK"], ("m", "p"), ("e",)),
        ("attention_3pass", ["A", "AV"], ("p",), ("m",)),
        # Of a second pass the scores lie whole in the block.
        ("attention_3pass", ["QK", "GM", "SN"], ("p",), ("e",)),
        ("attention_1pass", ["QK", "AV"], ("p",), ("m1", "e")),
        ("gemm", ["C"], ("m", "n"), ("k",)),
        # A state over both widths: only the batch tells blocks apart.
        ("linear_chunked", ["O"], (), ("t1", "s0", "e")),
    ],
)
def test_ranks_of_kernels_that_people_write(name, units, blocks, walked):
    cascade = zoo.load(name)
    taken = [u for u in units_of(cascade) if u.names & set(units)]
    found = structure_of(cascade, taken)
    assert (found.blocks, found.walked) == (blocks, walked)


def test_a_shifted_reading_keeps_blocks_and_steps_from_being_cut_there():
    text = "cascade c\nrank M P\ninput X[M, P]\noutput Z[M, P]\nY[m, p] = X[m, p] * 2\nZ[m, p] = Y[m, P - 1 - p]\n"
    cascade = parse(text)
    assert structure_of(cascade, units_of(cascade)).blocks == ("m",)


def test_two_iterate_blocks_are_two_kernels():
    block = "{r}[0, p] = 0\niterate {v} {{\n  {r}[{v} + 1, p] = {r}[{v}, p] + X[{v}, p]\n}}\n"
    text = "cascade c\nrank T P\nrank S = T\ninput X[T, P]\noutput Z[P]\n" + block.format(r="A", v="t")
    text += block.format(r="B", v="s") + "Z[p] = A[T, p] + B[S, p]\n"
    cascade = parse(text)
    assert structure_of(cascade, units_of(cascade)) is None


def walked_points(parts: list[str], extents: dict[str, int], tile: dict[str, int]) -> int:
    """Count, point by point, what tiles compute that have a point left; a tile is computed whole."""
    live = set()
    for at in itertools.product(*(range(n) for n in extents.values())):
        if all(eval(p, dict(zip(extents, at, strict=True))) for p in parts):
            live.add(tuple(a // tile[v] for a, v in zip(at, extents, strict=True)))
    return len(live) * math.prod(tile.values())


@settings(max_examples=80, deadline=None)
@given(
    m=st.integers(1, 150),
    p=st.integers(1, 40),
    tile=st.sampled_from([1, 3, 16, 64]),
    where=st.sampled_from(["m <= p", "m + 3 < p", "m % 5 == p % 5", "p - m < 4", "m == p or m == 0"]),
)
def test_points_computed_are_those_of_live_tiles(m: int, p: int, tile: int, where: str) -> None:
    text = f"cascade c\nrank E M P\ninput A[E, M] B[E, P]\noutput O[P]\nS[m, p] = A[e, m] * B[e, p] where {where}\n"
    cascade = parse(text + "O[p] = S[m, p] :: sum(m)\n")
    sizes = known_sizes(cascade, {"E": 8, "M": m, "P": p})
    structure = structure_of(cascade, units_of(cascade))
    tiling = Tiling(Case(cascade, sizes, 1, 2.0, tensor=True), structure, {"p": tile})
    extents = {"m": m, "p": p}
    steps = {"m": min(64, m), "p": min(tile, p)}
    found = tiling.executed(cascade.einsum("S"), ("m", "p"))
    assert found == walked_points([where], extents, steps)


GATED = """cascade gated
rank E M P
input Q[E, P] K[E, M] G[M]
output S[M, P]
S[m, p] = Q[e, p] * K[e, m] * sigmoid(G[m])
"""


def test_what_a_sum_does_not_change_is_worked_out_once():
    (einsum,) = parse(GATED).einsums
    found = {(a.op, a.variables): a.count for a in actions_of(einsum)}
    assert found == {
        ("exp", ("m",)): 1,
        ("add", ("m",)): 1,
        ("divide", ("m",)): 1,
        ("mac", ("m", "p", "e")): 1,
        ("mul", ("m", "p")): 1,
    }
    # Every block of 64 queries works the gates of its own keys out: 16 times as many as there are.
    case = Case(parse(GATED), {"E": 8, "M": 256, "P": 1024}, 1, 2.0, tensor=True)
    tiling = Tiling(case, structure_of(case.cascade, units_of(case.cascade)), {"m": 64, "p": 64})
    assert tiling.executed(einsum, ("m",)) == 16 * 256


@pytest.mark.parametrize("name", zoo.names())
def test_a_kernel_does_no_more_than_the_language_counts(name: str) -> None:
    cascade = zoo.load(name)
    sizes = known_sizes(cascade, dict.fromkeys(cascade.free_ranks, 6))
    for einsum in cascade.einsums:
        # A quotient is a reciprocal and a product.
        ours, said = (
            sum(
                a.count * weight.get(a.op, 1) * math.prod(sizes[rank_of(v)] for v in a.variables)
                for a in actions
            )
            for actions, weight in ((actions_of(einsum), {}), (einsum.actions, {"divide": 2}))
        )
        assert ours <= said
        assert ours > 0 or said == 0


def flash(case: str, **more):
    sizes = {"E": 128, "F": 128, "M1": 32, "M0": 64, "P": 2048, "B": 2, "H": 4}
    return kernels_of(zoo.load(case), sizes, H100, **more)


def test_one_pass_attention_does_and_moves_what_its_description_says():
    """Flash attention from its text and flash attention as described by hand: products and bytes are the same."""
    (kernel,) = flash("attention_1pass")
    lanes, p, m, e = 8, 2048, 2048, 128
    assert kernel.work.tensor * kernel.work.blocks * lanes == 4.0 * lanes * p * m * e
    assert kernel.work.reads * lanes == 2.0 * lanes * (p + 2 * m) * e
    assert kernel.work.writes * lanes == 2.0 * lanes * p * e
    # One exponential a score, and one a row and step for what the maximum has changed.
    assert kernel.work.exp * kernel.work.blocks == p * m + p * (m // 64) + p  # and the last reciprocal


def test_a_causal_text_skips_tiles_as_a_kernel_does():
    (dense,), (causal,) = flash("attention_1pass"), flash("attention_1pass_causal")
    rows = causal.tile.query
    tiles = [(i, j) for i in range(2048 // rows) for j in range(32)]
    live = [(i, j) for i, j in tiles if j * 64 <= i * rows + rows - 1]
    done = causal.work.tensor * causal.work.blocks / (dense.work.tensor * dense.work.blocks)
    assert done == pytest.approx(len(live) / len(tiles))


def test_a_type_without_tensor_cores_multiplies_on_the_vector_pipe():
    assert all(k.work.tensor == 0 for k in flash("attention_1pass", dtype="fp32"))
    assert (
        predict_cascade(zoo.load("gemm"), "M=4K,N=4K,K=4K", on="h100", dtype="fp32").latency_s
        > 5 * predict_cascade(zoo.load("gemm"), "M=4K,N=4K,K=4K", on="h100").latency_s
    )


def test_a_single_query_takes_no_more_tensor_operations_than_it_saves():
    """Sixteen rows are padded to for one: where that costs more than the vector pipe, it is not done."""
    (kernel,) = kernels_of(zoo.load("gemm"), "M=1,N=4096,K=4096", H100)
    assert kernel.work.tensor * kernel.work.blocks in (0.0, 2.0 * 16 * 4096 * 4096)


@pytest.mark.parametrize("name", zoo.names())
def test_every_cascade_is_laid_out_whole(name: str) -> None:
    """Each Einsum in some kernel, nothing moved that is less than what no machine can avoid, fused never slower."""
    cascade = zoo.load(name)
    sizes = known_sizes(cascade, {r: 16 if r in ("G", "N", "T", "M1") else 32 for r in cascade.free_ranks})
    laid = {way: kernels_of(cascade, sizes, H100, implementation=way) for way in WAYS}
    moved = {}
    for way, kernels in laid.items():
        assert {n for k in kernels for n in k.einsums} == {e.name for e in cascade.einsums}
        assert all(math.isfinite(k.busy_s) and k.busy_s > 0 for k in kernels)
        moved[way] = sum(k.work.reads + k.work.writes for k in kernels) * batch_of(cascade, sizes)
    assert min(moved.values()) >= bounds(cascade, sizes).compulsory_bytes * (1 - 1e-12)
    launch = 3e-6
    total = {way: sum(k.busy_s + launch for k in kernels) for way, kernels in laid.items()}
    assert total["fused"] <= total["eager"] * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(use=uses())
def test_a_random_cascade_is_predicted_or_refused(use: Use) -> None:
    try:
        found = predict_cascade(use.cascade, use.sizes, on="a100")
    except ModelError:
        return
    assert 0 < found.low_s < found.latency_s < found.high_s
    assert {n for each in found.launches for n in each["name"].split("+")} == {
        e.name for e in use.cascade.einsums
    }


def test_kernels_that_somebody_has_chosen():
    text = zoo.load("attention_3pass")
    sizes = "E=64,F=64,M=1K,P=1K"
    chosen = kernels_of(text, sizes, H100, kernels=[["GM", "SN", "SD", "A"]])
    assert [k.einsums for k in chosen] == [("QK",), ("GM", "SN", "SD", "A"), ("AV",)]


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ([["QK", "AV"]], "QK+AV: what stands between two of them is in another kernel"),
        ([["QX"]], "no Einsum 'QX'; known: A, AV, GM, QK, SD, SN"),
        ([["QK", "GM", "QK"]], "QK+GM+QK: 'QK' stands twice in it"),
        ([["QK", "GM", "SN", "SD", "A", "AV"]], "no block can hold what passes between them"),
    ],
)
def test_kernels_that_there_cannot_be(kernels, message):
    with pytest.raises(MappingError) as error:
        kernels_of(zoo.load("attention_3pass"), "E=64,F=64,M=1M,P=1M", H100, kernels=kernels)
    assert message in str(error.value)


def test_no_kernel_stands_between_its_own_einsums():
    """A reads X and so does B; C needs both: A and C share no kernel that B is outside of and in between."""
    text = (
        "cascade c\nrank P\ninput X[P]\noutput C[P]\nA[p] = exp(X[p])\nB[p] = exp(A[p])\nC[p] = A[p] + B[p]\n"
    )
    with pytest.raises(MappingError, match="what stands between"):
        kernels_of(parse(text), "P=1K", H100, kernels=[["A", "C"]])
    (one,) = kernels_of(parse(text), "P=1K", H100)
    assert one.einsums == ("A", "B", "C")


def test_no_two_kernels_wait_for_each_other():
    """A feeds B and D feeds C: each pair could share a kernel, both pairs could not."""
    text = "cascade c\nrank P\ninput X[P] Y[P]\noutput B[P] C[P]\n"
    text += "A[p] = exp(X[p])\nD[p] = exp(Y[p])\nB[p] = A[p] + Y[p]\nC[p] = D[p] + X[p]\n"
    cascade = parse(text)
    for group in (["A", "C"], ["B", "D"]):
        assert len(kernels_of(cascade, "P=1K", H100, kernels=[group])) == 3
    with pytest.raises(MappingError, match="two of them wait for each other"):
        kernels_of(cascade, "P=1K", H100, kernels=[["A", "C"], ["B", "D"]])


def test_the_text_and_the_description_of_attention_agree_within_the_interval():
    for name, kernel in (("attention_1pass", "flash_attention"), ("attention_3pass", "unfused_attention")):
        ours = predict_cascade(zoo.load(name), "E=128,F=128,M=8K,P=8K,B=4,H=32", on="h100")
        theirs = predict(kernel, on="h100", batch=4, heads=32, seq_q=8192, head_dim=128)
        assert ours.low_s < theirs.latency_s < ours.high_s


@pytest.mark.parametrize("on", ["a100", "h100", "b200", "l40s", "rtx_3090"])
def test_longer_is_never_faster(on):
    """To 2 %: a tile more may fill the last wave better, and another tile may be taken."""
    text = zoo.load("attention_3pass")
    found = [
        predict_cascade(text, f"E=64,F=64,M={n},P={n},H=8", on=on).latency_s for n in (512, 1024, 2048, 4096)
    ]
    assert all(a < b * 1.02 for a, b in itertools.pairwise(found))
