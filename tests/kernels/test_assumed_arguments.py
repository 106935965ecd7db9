"""What `kernels probe` takes for granted of a kernel's arguments, and names."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from einsum_cascade.errors import KernelError
from einsum_cascade.pairs import literal
from kernels.aot import compile_build
from kernels.probe import assumed_numbers, assumed_strides, prepared, probe
from validation.cli import app


def test_strides_that_nobody_tells_are_named_as_one_of_1_compiles_to_other_code(tmp_path):
    """Along a stride of 1 eight half words are one load; what is a multiple of 16 only is loaded word by word."""
    path = tmp_path / "rows.py"
    path.write_text(
        "import triton\nimport triton.language as tl\n\n@triton.jit\n"
        "def copy(x, y, stride_row, stride_col, BLOCK: tl.constexpr):\n"
        "    i = tl.program_id(0) * stride_row + tl.arange(0, BLOCK) * stride_col\n"
        "    tl.store(y + i, tl.load(x + i))\n"
    )
    silent = prepared(f"{path}:copy", constants={"BLOCK": 1024})
    assert assumed_strides(silent) == ("stride_row", "stride_col")
    told = prepared(f"{path}:copy", constants={"BLOCK": 1024, "stride_col": 1})
    assert assumed_strides(told) == ("stride_row",)
    words, vectors = (compile_build(b, "sm_90").totals["global"] for b in (silent, told))
    assert words == 8 * vectors


def test_sizes_that_nobody_tells_are_named_as_multiples_of_16_compile_to_other_code(tmp_path):
    """A mask made of a multiple of 16 is one for eight half words, which are one load; of another each has its own."""
    path = tmp_path / "rows.py"
    path.write_text(
        "import triton\nimport triton.language as tl\n\n@triton.jit(do_not_specialize=['scale'])\n"
        "def copy(x, y, size, scale, BLOCK: tl.constexpr):\n"
        "    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n"
        "    tl.store(y + i, tl.load(x + i, mask=i < size) * scale, mask=i < size)\n"
    )
    silent = prepared(f"{path}:copy", constants={"BLOCK": 1024})
    told = prepared(f"{path}:copy", constants={"BLOCK": 1024}, arguments={"size": "i32:16"})
    assert (assumed_numbers(silent), assumed_numbers(told)) == (("size",), ())
    words, vectors = (compile_build(b, "sm_90").totals["global"] for b in (silent, told))
    assert words == 8 * vectors
    shown = CliRunner().invoke(app, ["kernels", "probe", f"{path}:copy", "--constexpr", "BLOCK=1024"])
    assert "size: taken to be any whole number" in shown.stderr
    assert "--arg NAME=i32:16" in shown.stderr


def test_a_type_is_a_compile_time_value(tmp_path):
    path = tmp_path / "cast.py"
    path.write_text(
        "import triton\nimport triton.language as tl\n\n@triton.jit\n"
        "def cast(x: '*fp32', y: '*i8', OUT: tl.constexpr, BLOCK: tl.constexpr):\n"
        "    i = tl.arange(0, BLOCK)\n"
        "    tl.store(y + i * OUT.primitive_bitwidth, tl.load(x + i).to(OUT))\n"
    )
    constants = {"BLOCK": 128, "OUT": literal("tl.int16")}
    assert probe(f"{path}:cast", constants=constants).registers > 0
    with pytest.raises(KernelError, match=r"--constexpr OUT=tl\.flaot16: did you mean 'tl\.float16'"):
        prepared(f"{path}:cast", constants={"BLOCK": 128, "OUT": "tl.flaot16"})


def test_a_stride_that_triton_is_told_not_to_look_at_is_taken_to_be_any(tmp_path):
    text = (
        "import triton\nimport triton.language as tl\n\n@triton.jit{0}\n"
        "def copy(x, y, stride, BLOCK: tl.constexpr):\n"
        "    i = tl.program_id(0) * stride + tl.arange(0, BLOCK)\n"
        "    tl.store(y + i, tl.load(x + i))\n"
    )
    loads = []
    for name, options in (("plain", ""), ("kept", "(do_not_specialize_on_alignment=['stride'])")):
        path = tmp_path / f"{name}.py"
        path.write_text(text.format(options))
        made = prepared(f"{path}:copy", constants={"BLOCK": 1024})
        assert made.aligned == (() if options else ("stride",))
        loads.append(compile_build(made, "sm_90").totals["global"])
    # Rows begin anywhere, so that eight half words are eight loads.
    assert loads[1] == 8 * loads[0]
