"""Files as strangers write them: probed as Python runs them, and stopped where they would need a GPU or raise."""

from __future__ import annotations

import pytest

from einsum_cascade.errors import KernelError
from kernels.probe import prepared, probe

HELPERS = """
import triton
import triton.language as tl

@triton.jit
def stored(target, places, value, mask):
    tl.store(target + places, value, mask=mask)
"""
KERNELS = """
import torch
import triton
import triton.language as tl
from neighbours_helpers import stored

DEVICE = triton.runtime.driver.active.get_active_torch_device()

def is_cuda():
    return triton.runtime.driver.active.get_current_target().backend == "cuda"

@triton.autotune(configs=[triton.Config({"BLOCK": 128})] if is_cuda() else [], key=["n"])
@triton.heuristics({"EVEN": lambda given: given["n"] % given["BLOCK"] == 0})
@triton.jit
def scaled(x, y, n, alpha=1.0, BLOCK: tl.constexpr = 128, EVEN: tl.constexpr = False):
    i = tl.arange(0, BLOCK)
    stored(y, i, alpha * tl.load(x + i), i < n)

@triton.jit
def hinted(source: "*fp32", target: "*fp16", count: "i64", share: "fp32", BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(target + i, tl.load(source + i, mask=i < count) * share)

@triton.jit
def gathered(index, x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + tl.load(index + i)))

@triton.jit
def either(first, second, y, flag, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    source = first if flag else second
    tl.store(y + i, tl.load(source + i))
"""
BLOCK = {"BLOCK": 128}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbours_helpers.py").write_text(HELPERS)
    path = tmp_path / "mine.py"
    path.write_text(KERNELS)
    return path


def test_a_file_imports_its_neighbours_and_asks_for_its_device_as_where_it_is_run(file):
    assert probe(f"{file}:scaled").registers > 0


def test_a_number_with_a_fraction_by_default_is_one_and_annotations_are_types(file):
    made = prepared(f"{file}:scaled")
    assert (dict(made.pointers), made.floats) == ({"x": "*bf16", "y": "*bf16"}, ("alpha",))
    made = prepared(f"{file}:hinted", constants=BLOCK)
    assert made.pointers == {"source": "*fp32", "target": "*fp16", "count": "i64"}
    assert made.floats == ("share",)
    told = prepared(f"{file}:hinted", constants=BLOCK, arguments={"source": "bf16", "share": "i32"})
    assert (told.pointers["source"], told.floats) == ("*bf16", ())


def test_an_index_is_a_tensor_of_whole_numbers(file):
    made = probe(f"{file}:gathered", constants=BLOCK, arguments={"index": "*i32"})
    assert made.registers > 0
    with pytest.raises(KernelError, match=r"--arg index=\*i33: expected fp16, bf16, fp32, \*i32"):
        prepared(f"{file}:gathered", constants=BLOCK, arguments={"index": "*i33"})


def test_either_of_two_addresses_is_a_pointer(file):
    assert set(prepared(f"{file}:either", constants=BLOCK).pointers) == {"first", "second", "y"}


def test_a_block_has_no_more_threads_than_a_gpu_takes(file):
    with pytest.raises(KernelError, match="warps=64: a thread block has at most 32"):
        prepared(f"{file}:scaled", warps=64)


def test_what_is_defined_before_a_file_fails_is_found(file, capsys):
    with file.open("a") as text:
        text.write("\nx = torch.zeros(3, device='no such device')\n@triton.jit\ndef later(x):\n    pass\n")
    line = 1 + KERNELS.count("\n") + 1
    assert probe(f"{file}:gathered", constants=BLOCK, arguments={"index": "*i64"}).registers > 0
    assert f"{file}:{line}: RuntimeError: " in capsys.readouterr().err
    with pytest.raises(KernelError, match=rf"mine.py:{line}: RuntimeError: "):
        prepared(f"{file}:later")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\nraise Exception('own\\nwords')", "mine.py:3: Exception: own words"),
        ("class Mine(Exception): pass\nraise Mine('x')", "mine.py:2: Mine: x"),
        ("import sys\nsys.exit(3)", r"mine.py:2: it ends the program while it is loaded \(exit 3\)"),
        ("def f(:\n  pass", r"mine.py: SyntaxError: .*line 1"),
        (
            "import no_such_module_here",
            "mine.py:1: ModuleNotFoundError: No module named 'no_such_module_here'",
        ),
        ("", "mine.py: no kernel 'k': there is none"),
    ],
)
def test_a_file_that_raises_is_one_line_with_its_place(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(KernelError, match=words):
        probe(f"{path}:k")
