"""Descriptions of a user's own: read from a file, their expressions, and what they get wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from einsum_cascade.errors import DataError, MappingError
from mappings.grids import StepWork, padded, value_of
from simulator.gpu.loops import lay_grids
from simulator.gpu.model import predict
from simulator.gpu.sizes import call_of
from simulator.hardware.gpu import find_gpu
from tests.support.described import CALL, described

H100 = find_gpu("h100")

OWN = """
kind: gpu
name: mine
kernel: row_sums
source: "my kernel, read by hand"
implementations: ["*"]
parameters: {columns: 1024}
tiles: [{query: 8, key: 256, warps: 4, blocks_per_sm: 8}]
grids:
  - name: sums
    blocks: cdiv(seq_q, block_m)
    lanes: batch
    steps: cdiv(columns, block_n)
    step: {fma: block_m * block_n, loads: block_m * block_n * word}
    reads: batch * seq_q * columns * word
    writes: batch * seq_q * word
"""


def test_a_kernel_of_the_users_own_is_predicted_from_its_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(OWN)
    sizes = {"batch": 64, "heads": 1, "seq_q": 65536, "head_dim": 1, "columns": 4096, "dtype": "fp16"}
    p = predict("row_sums", on="h100", mapping=file, **sizes)
    assert p.bound_by == "memory"
    # 2^34 elements of 2 bytes at 3.35 TB/s.
    assert p.roofline_s == pytest.approx((2**34 * 2 + 2**22 * 2) / 3.35e12, rel=1e-3)
    assert p.roofline_s < p.latency_s < 2 * p.roofline_s
    assert p.launches[0]["blocks"] == 64 * 8192


def test_parts_of_an_expression_have_names(tmp_path):
    """Of a triangle of tiles: block i takes i + 1 steps, as with the expression written out."""
    plain, named = tmp_path / "plain.yaml", tmp_path / "named.yaml"
    cells = "    steps: cdiv(columns, block_n)\n"
    plain.write_text(OWN.replace(cells, "    steps: min(i, cdiv(columns, block_n)) + 1\n"))
    parts = "    let: {most: 'cdiv(columns, block_n)', mine: 'min(i, most)'}\n"
    named.write_text(OWN.replace(cells, f"{parts}    steps: mine + 1\n    masked: min(most, 1)\n"))
    sizes = {"batch": 64, "heads": 1, "seq_q": 1024, "head_dim": 1, "dtype": "fp16"}
    first, second = (predict("row_sums", on="h100", mapping=file, **sizes) for file in (plain, named))
    assert sum(second.tiles.values()) == sum(first.tiles.values()) == 64 * (1 + 2 + 3 + 4 + 5 * 124)
    assert second.tiles["masked"] == 64 * 128
    for name, told in (("word", "let: 'word' means something else"), ("heads", "'heads' is a size of every")):
        plain.write_text(OWN.replace(cells, f"    let: {{{name}: 2}}\n{cells}"))
        with pytest.raises(MappingError, match=told):
            predict("row_sums", on="h100", mapping=plain, **sizes)
    plain.write_text(OWN.replace(cells, "    let: {most: 'cdiv(colums, block_n)'}\n    steps: most\n"))
    with pytest.raises(MappingError, match=r"let.most: unknown name 'colums'"):
        predict("row_sums", on="h100", mapping=plain, **sizes)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": "seqq"}, "m: grids.g: steps: unknown name 'seqq'; did you mean 'seq_q'"),
        ({"steps": "seq_q -"}, "steps: 'seq_q -' is not an expression"),
        ({"steps": "2 - seq_q"}, "steps: '2 - seq_q' is -14; expected a finite number of at least zero"),
        ({"steps": "seq_q / 0"}, "steps: 'seq_q / 0' cannot be computed"),
        ({"masked": "seq_q + i + 1"}, "masked: expected no more than steps"),
        ({"blocks": "2 ** 40"}, "blocks: expected at most 2,147,483,647, found 1,099,511,627,776"),
        ({"blocks": "i + 2 ** 23", "steps": "i"}, "blocks: unknown name 'i'"),
        ({"blocks": "2 ** 23", "steps": "i"}, "blocks: expected at most 4,194,304, found 8,388,608"),
        ({"blocks": 0}, "m: grids.g: expected a block that takes a step, found none for these sizes"),
        ({"lanes": 0}, "m: grids.g: expected a block that takes a step, found none for these sizes"),
        ({"steps": "i * 0"}, "m: grids.g: expected a block that takes a step, found none for these sizes"),
        ({"blocks": "seq_q / 64"}, "blocks: 'seq_q / 64' is 0.25; expected whole numbers, as of cdiv(a, b)"),
        ({"steps": "seq_q / 64"}, "steps: 'seq_q / 64' is 0.25; expected whole numbers"),
        ({"lanes": 1.5}, "lanes: '1.5' is 1.5; expected whole numbers"),
        ({"steps": "cdiv(seq_q)"}, "steps: 'cdiv' takes 2 value(s), found 1"),
        ({"steps": "ceil(seq_q, 2)"}, "steps: 'ceil' takes 1 value(s), found 2"),
        ({"steps": "floor(seq_q, 2)"}, "steps: 'floor' takes 1 value(s), found 2"),
        ({"steps": "(0 - seq_q) ** 0.5"}, "is nan; expected a finite number"),
        (
            {"reads": "10 ** 64 * 10 ** 64 * 10 ** 64 * 10 ** 64 * 10 ** 64"},
            "is inf; expected a finite number",
        ),
        ({"reads": "max(1e308 * 10, 1)"}, "is inf; expected a finite number"),
        ({"step": StepWork(fma="seq_q")}, "step: expected calls whose steps are alike; found different ones"),
        ({"compiled": "nobody/knows"}, ""),
    ],
)
def test_what_a_description_gets_wrong_is_told(changed, words):
    mapping = described(**changed)

    def lay():
        calls = [call_of(mapping, {"batch": 1, "heads": 1, "seq_q": n}) for n in (16, 32)]
        return lay_grids(calls, H100, mapping=mapping)

    if not words:  # the mapping's own tile serves
        assert lay().tile.query == 8
        return
    with pytest.raises(MappingError) as e:
        lay()
    assert words in str(e.value)


def test_any_whole_number_is_read():
    mapping = described(reads="10 ** 40", blocks="2 ** 31 - 1")
    (bytes_moved,) = lay_grids([call_of(mapping, {"seq_q": 16})], H100, mapping=mapping).bytes_moved
    assert bytes_moved == 1e40


def test_what_was_not_compiled_is_told():
    with pytest.raises(
        MappingError,
        match=r"grids\.weights: 'channel_attention/weights' was not compiled for fp8 on sm_90; "
        "expected bf16 or fp16 or fp32, or a mapping with tiles",
    ):
        predict("channel_attention", on="h100", **CALL | {"dtype": "fp8"})
    turing = replace(H100, name="old", target="sm_75")
    with pytest.raises(
        MappingError, match="for bf16 on sm_75; expected a GPU of sm_100, sm_120, sm_80, sm_90"
    ):
        predict("channel_attention", on=turing, **CALL)
    with pytest.raises(DataError, match="unknown size 'picked' of a call; did you mean 'picks'"):
        predict("selected_attention", on="h100", picked=3, **CALL)
    with pytest.raises(ValueError, match="order: expected one of"):
        described(order="random")


def test_functions_of_expressions():
    assert padded(np.array([1, 16, 17, 100])).tolist() == [16, 16, 32, 128]
    names = {"a": np.arange(1, 5), "b": 3}
    assert value_of("cdiv(a, b)", names, where="x").tolist() == [1, 1, 1, 2]
    assert value_of("min(a, b, 2)", names, where="x").tolist() == [1, 2, 2, 2]
    assert value_of("ceil(a / b) + max(a, b)", names, where="x").tolist() == [4, 4, 4, 6]
