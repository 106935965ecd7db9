"""What every engineer expects of predictions: laws over random calls of all that was measured, with their room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from einsum_cascade.errors import HardwareError, MappingError
from mappings.gpu import find_kernel_mapping
from mappings.tiles import TileMapping
from simulator.gpu.calibration import shipped
from simulator.gpu.call import make_call
from simulator.gpu.efficiency import Efficiency, times
from simulator.gpu.model import lay, predict
from simulator.hardware.gpu import find_gpu

# A kernel on a device, with the heads and types of which rows were published. Where keys are split, in as many parts
# as kernels and hosts say, nothing is monotone: one more query tile may mean half as many parts.
MEASURED = sorted(
    {
        (e.key.device, e.key.implementation, e.key.head_dim, e.key.dtype)
        for e in shipped()
        if e.key.direction == "fwd"
        and not find_kernel_mapping("flash_attention", e.key.implementation).split_keys
    }
)
NAMES = ["triton", "cuda-fa2", "cuda-fa3", "cudnn", "vllm-0.24.0:vllm_flash_attn_fa3", "sglang-0.5.14:triton"]

lengths = st.one_of(st.integers(1, 3000), st.sampled_from([2**n for n in range(15)]))
grown = st.sampled_from([1.01, 1.2, 2.0, 3.0])
sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 40),
        "kv_heads": st.sampled_from([1, 2, 8]),
        "seq_q": lengths,
        "seq_kv": lengths,
        "causal": st.booleans(),
    }
)


def seconds(of, **call):
    device, implementation, head_dim, dtype = of
    try:
        return predict(
            "flash_attention",
            on=device,
            implementation=implementation,
            head_dim=head_dim,
            dtype=dtype,
            **call,
        ).latency_s
    except MappingError:
        assume(False)  # a tile of one kind of call need not fit another


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(MEASURED), sizes, st.sampled_from([1, 4]), grown)
def test_more_to_do_is_never_faster(of, given_sizes, group, factor):
    call = {**given_sizes, "heads": given_sizes["kv_heads"] * group}
    call["seq_kv"] = max(call["seq_kv"], call["seq_q"])
    base = seconds(of, **call)

    def more(**changes):
        return seconds(of, **{**call, **changes}) / base

    def grow(name):
        return int(np.ceil(call[name] * factor))

    same = 1 - 1e-9
    assert more(batch=grow("batch")) >= same
    assert more(heads=2 * call["heads"], kv_heads=2 * call["kv_heads"]) >= same
    assert more(heads=2 * call["heads"]) >= same
    # Blocks at the end of a sequence have fewer rows to load, and all blocks of a call count as their mean.
    assert more(seq_kv=grow("seq_kv"), seq_q=grow("seq_q")) >= 0.95
    assert more(seq_kv=grow("seq_kv")) >= 0.95
    assert more(kv_heads=call["heads"]) >= 0.95
    # A mask that removes nothing is tested all the same: short calls take up to 7 % more.
    assert not call["causal"] or more(causal=False) >= 0.9


def test_wider_types_are_never_faster():
    ideal = Efficiency(scalar=1.0, launch_s=1e-9, block_cycles=0.0, memory=1.0)
    mapping = find_kernel_mapping("flash_attention", "triton")
    tile = TileMapping(query=64, key=32, warps=8)
    for device in ("a100", "h100", "b200", "l40s", "rtx_3090"):
        gpu = find_gpu(device)
        found = [
            float(
                times(
                    lay(
                        [make_call(batch=4, heads=32, seq_q=8192, head_dim=128, dtype=dtype)],
                        gpu,
                        mapping=mapping,
                        tile=tile,
                    ),
                    ideal,
                ).latency_s[0]
            )
            for dtype in ("fp8", "bf16", "tf32", "fp32")
        ]
        assert found == sorted(found)
        assert gpu.peak_flops("fp32") == gpu.peak_flops("tf32") == gpu.peak_flops("bf16") / 2
        with pytest.raises(HardwareError, match="fp64: no rate of its products is known"):
            gpu.peak_flops("fp64")


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.tuples(st.integers(1, 500), st.integers(1, 700)),
    st.sampled_from([(1, 1), (2, 1), (2, 4), (1, 5)]),
    st.booleans(),
    st.one_of(st.just(0), st.integers(1, 800)),
    st.sampled_from(["fwd", "bwd"]),
)
def test_tiles_are_those_of_the_materialised_mask(name, lengths, heads, causal, window, direction):
    (seq_q, seq_kv), (kv_heads, group) = lengths, heads
    mapping = find_kernel_mapping("flash_attention", name)
    tile = TileMapping(query=64, key=48, warps=8)
    found = predict(
        "flash_attention", on="h100", implementation=name, tile=tile, batch=3, heads=kv_heads * group,
        kv_heads=kv_heads, seq_q=seq_q, seq_kv=seq_kv, head_dim=64, causal=causal, window=window, direction=direction,
    ).tiles  # fmt: skip
    # The last query stands at the last key; a window ends at a causal query and lies around one that is not.
    i, j = np.arange(seq_q)[:, None] + seq_kv - seq_q, np.arange(seq_kv)[None, :]
    left, right = (window - 1, 0) if causal else (window // 2, window - 1 - window // 2)
    seen = (j <= i) if causal else np.ones((seq_q, seq_kv), dtype=bool)
    seen = seen & (j >= i - left) & (j <= i + right) if window else seen
    packed = mapping.pack and direction == "fwd"
    rows = np.repeat(seen, group, axis=0) if packed else seen if direction == "fwd" else seen.T
    expected = {"full": 0, "masked": 0, "skipped": 0}
    for top in range(0, rows.shape[0], 64):
        for first in range(0, rows.shape[1], 48):
            block = rows[top : top + 64, first : first + 48]
            whole = block.all() and block.shape[1] == 48
            expected["full" if whole else "masked" if block.any() else "skipped"] += 1
    copies = 3 * (kv_heads if packed else kv_heads * group)
    assert found == {kind: copies * count for kind, count in expected.items()}
