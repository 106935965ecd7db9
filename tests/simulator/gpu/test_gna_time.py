"""Steps of the busiest SM against schedules played out, the fit of the constants, the shape of a prediction."""

from __future__ import annotations

import heapq
import itertools
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import DataError, HardwareError, MappingError
from simulator.gpu.gna_backends import TilePair, backends, constants, find_backend, tile_pairs
from simulator.gpu.gna_time import dealt_steps, fit_constants, predict_gna, shared_steps, step_s
from simulator.gpu.gna_tune import tune_gna
from simulator.hardware.gpu import find_gpu

FLUX: dict[str, Any] = {"layout": (256, 256), "window": 80, "heads": 24}
HOPPER: dict[str, Any] = {"q_tile": (16, 8), "kv_tile": (16, 8), "on": "h100"}

DEVICES = ("h100", "h20", "b200", "b300", "a100", "l40s", "rtx_pro_6000")


def runs(device: str, backend: str) -> bool:
    kernel, gpu = backends()[backend], find_gpu(device)
    return not kernel.capabilities or int(gpu.target.removeprefix("sm_")) in kernel.capabilities


@st.composite
def trip_rows(draw: st.DrawFn) -> list[list[int]]:
    """KV tiles of an axis, for each dilation class and Q tile."""
    classes, tiles = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    row = st.lists(st.integers(1, 9), min_size=tiles, max_size=tiles)
    return draw(st.lists(row, min_size=classes, max_size=classes))


def coordinate(number: int, shape: list[int]) -> list[int]:
    """CuTe's idx2crd: the first mode runs fastest."""
    found = []
    for extent in shape:
        found.append(number % extent)
        number //= extent
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(trip_rows(), min_size=1, max_size=3), st.integers(1, 13), st.integers(1, 30))
def test_dealt_tiles_equal_a_deal_played_out(axes: list[Any], sms: int, copies: int) -> None:
    both = [[rows, [row[::-1] for row in rows]] for rows in axes]
    found = dealt_steps([np.array(each, dtype=float) for each in both], sms=sms, copies=copies)
    grid, classes = [len(rows[0]) for rows in axes], [len(rows) for rows in axes]
    blocks, groups = prod(grid), prod(classes)
    for which in np.ndindex(*found.shape):
        chosen = [each[w] for each, w in zip(both, which, strict=True)]
        busy = [0] * sms
        # PersistentTileScheduler::get_block_coord: Q tiles, then batch x classes, then heads.
        for launch in range(blocks * groups * copies):
            tile, group = coordinate(launch % blocks, grid), coordinate(launch // blocks % groups, classes)
            busy[launch % sms] += prod(rows[c][t] for rows, c, t in zip(chosen, group, tile, strict=True))
        assert found[which] == max(busy)


def test_the_outermost_axis_is_dealt_first() -> None:
    # Two SMs, 2 x 2 Q tiles: columns of the outer axis alternate, so one SM gets both rows that visit 9 and 9.
    outer, inner = np.array([[[9.0, 1.0]]]), np.array([[[1.0, 1.0]]])
    assert dealt_steps([outer, inner], sms=2, copies=1).tolist() == [[9 + 9]]
    assert dealt_steps([inner, outer], sms=2, copies=1).tolist() == [[9 + 1]]


def test_a_deal_repeats_itself_and_is_not_played_out() -> None:
    # 4 Q tiles over 6 SMs: after 12 launches the deal begins again; SM 0 gets tiles 0 and 2, SM 1 tiles 1 and 3.
    found = dealt_steps([np.array([[[1.0, 2.0, 3.0, 5.0]]])], sms=6, copies=3 * 10**12)
    assert found.tolist() == [10**12 * (2 + 5)]


def test_too_many_tiles_to_deal_out_are_refused() -> None:
    axis: dict[str, Any] = {"window": 64, "q_tile": (16, 16), "kv_tile": (8, 16)}
    with pytest.raises(MappingError, match=r"4,294,967,296 Q tiles are too many to deal out to 148 SMs"):
        predict_gna(layout=(2**20, 2**20), on="b200", **axis)
    # Nobody deals on a H100: there it is a sum.
    assert predict_gna(layout=(2**20, 2**20), on="h100", **axis).steps > 2**32 * 9 * 4 / 132


def test_long_launches_are_counted_exactly() -> None:
    # 2**24 + 1 does not exist in single precision.
    assert dealt_steps([np.array([[[2.0**24, 1.0]]])], sms=1, copies=1).tolist() == [2**24 + 1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 4))
def test_shared_steps_bound_a_greedy_schedule(trips: list[int], sms: int, copies: int) -> None:
    total, least, most = (np.array(float(f(trips))) for f in (sum, min, max))
    bound = int(shared_steps(total, least, most, q_tiles=len(trips), sms=sms, copies=copies))
    free = [0] * sms
    for trip in trips * copies:
        heapq.heapreplace(free, free[0] + trip)
    assert bound <= max(free) <= bound + max(trips)
    if min(trips) == max(trips):
        assert bound == max(free)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 6))
def test_shared_steps_are_never_more_than_the_best_schedule(trips: list[int], sms: int) -> None:
    total, least, most = (np.array(float(f(trips))) for f in (sum, min, max))
    loads = {(0,) * sms}
    for trip in trips:  # every schedule, but for the names of the SMs
        loads = {tuple(sorted((*b[:i], b[i] + trip, *b[i + 1 :]))) for b in loads for i in range(sms)}
    bound = int(shared_steps(total, least, most, q_tiles=len(trips), sms=sms, copies=1))
    assert bound <= min(max(b) for b in loads)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(12, 16), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 3))
def test_shared_steps_gain_from_sms_and_lose_by_copies(trips: list[int], sms: int, copies: int) -> None:
    total, least, most = (np.array(float(f(trips))) for f in (sum, min, max))

    def steps(sms: int, copies: int) -> int:
        return int(shared_steps(total, least, most, q_tiles=len(trips), sms=sms, copies=copies))

    assert steps(sms + 1, copies) <= steps(sms, copies) <= steps(sms, copies + 1)


def test_a_second_round_of_nearly_equal_tiles_takes_two_of_the_large() -> None:
    # 32k tokens, window 2048, 132 SMs: 256 Q tiles, 16 of 16 KV tiles and 240 of 17. 124 SMs take two Q tiles each,
    # and only 16 of those can be short: some take 17 + 17.
    found = predict_gna(layout=32768, window=2048, q_tile=128, kv_tile=128, on="h100")
    assert found.steps == 34


def test_published_launches_take_the_steps_of_their_kernels() -> None:
    # FLUX, 512 Q tiles x 24 heads on 132 SMs: 94 rounds, 50 KV tiles each.
    assert predict_gna(**FLUX, **HOPPER, stride=16).steps == -(-512 * 24 // 132) * 50
    # 32k tokens, one head, Blackwell: 128 Q tiles on 148 SMs, the busiest visits 18 KV tiles.
    one = predict_gna(layout=32768, window=2048, q_tile=256, kv_tile=128, on="b200")
    assert (one.steps, one.masked, one.permute_s) == (18, 1.0, 0.0)


def test_time_is_start_plus_steps_plus_permutation() -> None:
    plain, masked = (predict_gna(**FLUX, **HOPPER, stride=s) for s in (16, 1))
    price = plain.constants
    step = 4 * 128 * 128 * 128 * 132 / price.flops_per_s
    assert plain.kernel_s == pytest.approx(price.start_s + plain.steps * step, rel=1e-12)
    assert masked.kernel_s == pytest.approx(
        price.start_s + masked.steps * step * price.mask_factor, rel=1e-12
    )
    # four tensors of 65536 tokens x 24 heads x 128 elements x 2 bytes, read and written
    assert plain.permute_s == pytest.approx(8 * 65536 * 24 * 128 * 2 / price.permute_bytes_per_s, rel=1e-12)
    assert plain.latency_s == plain.kernel_s + plain.permute_s
    assert plain.speedup < plain.kernel_speedup < 10.24


def test_padding_is_permuted_too() -> None:
    even, odd = (
        predict_gna(layout=(n, 64), window=16, q_tile=(16, 8), kv_tile=(16, 8), on="h100") for n in (64, 65)
    )
    price = even.constants.permute_bytes_per_s
    # Q, K, V, O: 65 x 64 tokens on one side, 80 x 64 on the other.
    assert odd.permute_s == pytest.approx(4 * (65 + 80) * 64 * 128 * 2 / price, rel=1e-12)
    assert even.permute_s == pytest.approx(4 * (64 + 64) * 64 * 128 * 2 / price, rel=1e-12)


def test_a_window_that_holds_everything_is_dense_attention() -> None:
    whole = predict_gna(layout=(256, 256), window=256, heads=24, **HOPPER)
    assert whole.latency_s == whole.dense_s
    assert (whole.speedup, whole.permute_s, whole.masked) == (1.0, 0.0, 0.0)
    assert predict_gna(layout=(256, 256), window=256, causal=(1, 0), heads=24, **HOPPER).masked == 1.0


def test_only_flex_masks_tile_by_tile() -> None:
    asked: dict[str, Any] = {"layout": (64, 64), "window": 16, "q_tile": 8, "kv_tile": 8, "on": "a100"}
    flex, cutlass = (predict_gna(**asked, backend=name).masked for name in ("flex-fna", "cutlass-fna"))
    assert 0 < flex < cutlass == 1.0


def test_a_fit_finds_the_constants_that_made_the_times() -> None:
    kernel, gpu = backends()["hopper-fna"], find_gpu("h100")
    price = constants(kernel, gpu)
    asked = [
        {"layout": 32768, "window": 2048, "stride": s, "q_tile": 128, "kv_tile": 128, "heads": h}
        for s, h in ((1, 1), (256, 1), (256, 24), (1, 8))
    ]
    times = [{**a, "kernel_s": predict_gna(**a, on="h100").kernel_s} for a in asked]
    start, rate, factor = fit_constants(times, on="h100", backend="hopper-fna")
    assert (start, rate, factor) == pytest.approx(
        (price.start_s, price.flops_per_s, price.mask_factor), rel=1e-9
    )
    for lacking in (times[:2], [times[1], times[2], times[2]]):
        with pytest.raises(DataError, match="do not determine"):
            fit_constants(lacking, on="h100", backend="hopper-fna")


def test_a_gpu_without_a_fit_is_scaled_and_says_so() -> None:
    kernel = backends()["hopper-fna"]
    h100, h200 = (constants(kernel, find_gpu(name)) for name in ("h100", "h200"))
    assert h100.fitted
    assert not h200.fitted
    assert h200.source.startswith("assumed: h100 scaled")
    assert h200.flops_per_s == h100.flops_per_s  # the same SMs at the same clock
    assert h200.permute_bytes_per_s > h100.permute_bytes_per_s


def test_what_nobody_knows_of_a_gpu_is_taken_from_its_own_generation() -> None:
    """B300 has the SMs and the fp16 rate of B200, A100 of 40 GB those of A100: the same kernel, the same rate."""
    for kernel in backends().values():
        for other, known in (("b300", "b200"), ("a100_40gb", "a100"), ("h200", "h100")):
            if runs(other, kernel.name):
                scaled, own = (constants(kernel, find_gpu(name)) for name in (other, known))
                assert scaled.flops_per_s == pytest.approx(own.flops_per_s, rel=1e-12)
    # A card of fewer and slower SMs is slower, as its datasheet has it.
    pcie, sxm = (constants(backends()["cutlass-fna"], find_gpu(name)) for name in ("h100_pcie", "h100"))
    assert pcie.flops_per_s < sxm.flops_per_s


def test_how_cudnn_fares_is_said_only_where_it_was_measured() -> None:
    measured = {"h100": True, "b200": True, "h200": False, "h20": False, "b300": False}
    for device, was in measured.items():
        gpu = find_gpu(device)
        assert bool(constants(find_backend(gpu), gpu).baseline_factor) is was


def test_the_fitted_rate_is_the_published_one() -> None:
    # GNA's abstract: 1.3 PFLOP/s effective on B200, printed with two digits.
    assert constants(backends()["blackwell-fna"], find_gpu("b200")).flops_per_s == pytest.approx(
        1.3e15, abs=0.05e15
    )


def test_shipped_tiles_are_as_many_as_natten_compiles() -> None:
    hopper, blackwell, a100, l40s = (find_gpu(name) for name in ("h100", "b200", "a100", "l40s"))
    table = backends()

    def pairs(backend: str, gpu: Any) -> list[int]:
        return [len(tile_pairs(table[backend], gpu, axes=n, head_dim=128)) for n in (1, 2, 3)]

    assert pairs("blackwell-fna", blackwell) == [1, 4, 7]
    assert pairs("hopper-fna", hopper) == [1, 1, 2]
    assert pairs("cutlass-fna", a100)[2] == 76
    # GPUs with less shared memory go without the 64 x 128 tiles.
    assert pairs("cutlass-fna", l40s)[2] == 76 - 30
    assert pairs("flex-fna", a100) == [1, 3, 3]


def test_tiles_of_a_backend_hold_the_same_work() -> None:
    for backend, device, tokens in (
        ("blackwell-fna", "b200", (256, 128)),
        ("hopper-fna", "h100", (128, 128)),
    ):
        gpu = find_gpu(device)
        for axes in (1, 2, 3):
            found = tile_pairs(backends()[backend], gpu, axes=axes, head_dim=128)
            assert {pair.tokens for pair in found} == {tokens}


def test_a_step_with_narrower_heads_has_as_many_exponentials() -> None:
    price, gpu = constants(backends()["hopper-fna"], find_gpu("h100")), find_gpu("h100")
    narrow, measured = (step_s(price, gpu, TilePair((64,), (64,), ""), d) for d in (64, 128))
    assert measured == 4 * 64 * 64 * 128 * 132 / price.flops_per_s
    # Products of 4 x 64 x 64 x 64 operations at 4096 a cycle, half as many as measured; 64 x 64 exponentials at 16.
    assert narrow == pytest.approx(measured * (256 + 256) / (512 + 256), rel=1e-12)


@pytest.mark.parametrize(
    ("device", "backend"),
    [(d, b) for d, b in itertools.product(DEVICES, backends()) if runs(d, b)],
)
def test_no_step_is_faster_than_the_pipes_of_its_sm(device: str, backend: str) -> None:
    kernel, gpu = backends()[backend], find_gpu(device)
    price = constants(kernel, gpu)
    last = 0.0
    for head_dim in (32, 64, 128, 256):
        if head_dim not in kernel.head_dims:
            continue
        step = step_s(price, gpu, TilePair((128,), (128,), ""), head_dim)
        products = 4 * 128 * 128 * head_dim / gpu.tensor.of("fp16") / gpu.clock_hz
        exponentials = 128 * 128 / gpu.exp_per_cycle / gpu.clock_hz
        assert step > max(products, exponentials, last)
        last = step


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"on": "h1000"}, HardwareError, "unknown GPU 'h1000'"),
        ({"backend": "hooper-fna"}, MappingError, "did you mean 'hopper-fna'"),
        ({"on": "a100", "backend": "hopper-fna"}, HardwareError, "hopper-fna does not run on a100"),
        ({"heads": 0}, MappingError, "heads: 0 is too small"),
        ({"batch": -1}, MappingError, "batch: -1 is too small"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        predict_gna(**{**FLUX, **HOPPER, **changes})


def test_head_dimensions_without_tiles() -> None:
    with pytest.raises(MappingError, match="cannot run 96; expected 32, 64, 128, 256"):
        tile_pairs(backends()["hopper-fna"], find_gpu("h100"), axes=2, head_dim=96)
    with pytest.raises(MappingError, match="multiples of 8 from 8 to 128"):
        tile_pairs(backends()["blackwell-fna"], find_gpu("b200"), axes=2, head_dim=256)


@pytest.mark.parametrize(
    ("device", "head_dim", "backend"),
    [
        # choose_backend of NATTEN 0.21.7 asks its kernels in turn; Hopper's has four head dimensions, Blackwell's all
        # multiples of 8 up to 128, that of CUTLASS 2.X all multiples of 8.
        ("h100", 256, "hopper-fna"),
        ("h100", 72, "cutlass-fna"),
        ("b200", 72, "blackwell-fna"),
        ("b200", 192, "cutlass-fna"),
    ],
)
def test_natten_looks_at_the_head_dimension_too(device: str, head_dim: int, backend: str) -> None:
    asked: dict[str, Any] = {**FLUX, "on": device, "head_dim": head_dim}
    assert predict_gna(**asked, q_tile=(8, 8), kv_tile=(8, 8)).constants.backend == backend
    assert tune_gna(**asked, stride=1, top=1).backend == backend


def test_a_head_dimension_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(MappingError, match=r"head_dim: .* cannot run 12; expected multiples of 8"):
        predict_gna(**FLUX, **HOPPER, head_dim=12)


def test_natten_prefers_its_newest_kernel() -> None:
    found = {name: find_backend(find_gpu(name)).name for name in ("b200", "h100", "a100", "l40s")}
    assert found == {
        "b200": "blackwell-fna",
        "h100": "hopper-fna",
        "a100": "cutlass-fna",
        "l40s": "cutlass-fna",
    }
