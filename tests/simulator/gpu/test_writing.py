"""Text of written kernels: which steps they leave out, what they hoist, and what the command says."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from einsum_cascade import parse, zoo
from einsum_cascade.analysis.intervals import alternatives, any_term
from einsum_cascade.analysis.ranges import always, reach
from einsum_cascade.errors import CascadeError, MappingError
from einsum_cascade.parser import parse_expression
from simulator.gpu.writing.program import write_program
from simulator.gpu.writing.ranges import ends, sure_ends
from simulator.gpu.writing.terms import CannotWriteError
from validation.cli import app

runner = CliRunner()
FLASH = "E=64,F=64,M1=64,M0=64,P=4096,H=32"


def body(name: str, sizes: str, **more) -> str:
    """Return the kernels of a written file."""
    text = write_program(zoo.load(name), sizes, **more).text
    return text[text.index("@triton.jit") : text.index("LAUNCHES")]


def test_flash_attention_is_one_kernel_that_stops_at_the_diagonal():
    text = body("attention_1pass_causal", FLASH)
    assert text.count("@triton.jit") == 1
    assert "m1_end = tl.minimum(M1, tl.maximum(p_last + 64, 0) // 64)" in text
    before, whole, cut = text.split("for m1 in range(")
    assert whole.startswith("0, m1_cut):")
    assert cut.startswith("m1_cut, m1_end):")
    for loop in (whole, cut):
        assert loop.count("tl.dot(") == 2
        assert "Q_ptr + " not in loop
        assert "K_ptr + " in loop
    assert "Q_ptr + " in before
    # Only tiles that the diagonal cuts are masked.
    assert "tl.where" not in whole
    assert "tl.where" in cut


def test_a_window_begins_behind_what_no_query_of_the_tile_sees():
    text = body("attention_1pass_sliding_window", f"{FLASH},W=256")
    loops = [line.strip() for line in text.splitlines() if line.strip().startswith("for m1")]
    stretches = [("m1_begin", "m1_whole"), ("m1_whole", "m1_cut"), ("m1_cut", "m1_end")]
    assert loops == [f"for m1 in range({a}, {b}):" for a, b in stretches]


def test_of_a_rank_that_tiles_do_not_divide_the_last_step_alone_is_masked():
    whole, last = body("gemm", "M=64,N=64,K=1000").split("for k_first in range(")[1:]
    assert whole.startswith("0, k_cut, BLOCK_K):")
    assert "mask=" not in whole
    assert last.count("mask=") == 2


def test_without_a_mask_nothing_is_left_out_and_nothing_masked():
    text = body("attention_1pass", FLASH)
    assert "for m1 in range(0, M1):" in text
    assert "tl.where" not in text
    assert "mask=" not in text


def test_one_row_takes_no_tensor_cores():
    assert "tl.dot" not in body("attention_3pass", "E=64,F=64,M=4096,P=1,H=32")


def test_what_many_are_divided_by_is_inverted_once():
    assert "av = rnv * (1.0 / rd)[:, None]" in body("attention_1pass", FLASH)


def test_offsets_beyond_two_to_the_31_are_64_bit_numbers():
    assert "int64" not in body("gemm", "M=4096,N=4096,K=4096")
    assert "tl.cast(m, tl.int64) * K" in body("gemm", "M=64K,N=64,K=64K") or "int64" in body(
        "gemm", "M=64K,N=64,K=64K"
    )


@st.composite
def whole(draw: st.DrawFn, depth: int = 3) -> str:
    """An expression over whole numbers."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(["m", "p", "M0", "W", "3", "(-2)", "1"]))
    left, right = draw(whole(depth - 1)), draw(whole(depth - 1))
    form = draw(
        st.sampled_from(
            ["({a} + {b})", "({a} - {b})", "({a} * {b})", "({a} // 3)", "({a} % W)", "abs({a})", "min({a}, {b})",
             "max({a}, {b})", "clamp({a}, 0, 5)", "(-{a})"]
        )
    )  # fmt: skip
    return form.format(a=left, b=right)


NUMBERS = {"M": 7, "P": 5, "M0": 4, "W": 3}


def python(text: str, m: int, p: int) -> int:
    names = {"m": m, "p": p, "clamp": lambda x, low, high: min(max(x, low), high), **NUMBERS}
    return eval(text, {"__builtins__": {"abs": abs, "min": min, "max": max}}, names)


@settings(max_examples=300, deadline=None)
@given(text=whole())
def test_no_value_lies_outside_of_its_reach(text: str) -> None:
    low, high = reach(parse_expression(text), NUMBERS)
    for m, p in itertools.product(range(7), range(5)):
        assert low <= python(text, m, p) <= high


@settings(max_examples=300, deadline=None)
@given(left=whole(), right=whole(), op=st.sampled_from(["<", "<=", ">", ">="]))
def test_what_always_holds_holds_everywhere(left: str, right: str, op: str) -> None:
    if always(parse_expression(f"{left} {op} {right}"), NUMBERS):
        for m, p in itertools.product(range(7), range(5)):
            assert python(f"{left} {op} {right}", m, p)


class Tile:
    """Some values of p, all of q, and a linear condition on them and m: the oracle walks over every point."""

    def __init__(self, factors, constant: int, op: str, tile) -> None:
        self.sizes = {"M": 11, "P": 12, "Q": 3}
        a, b, c = factors
        self.part = parse_expression(f"{a}*m + {b}*p + {c}*q + {constant} {op} 0")
        self.first, self.last = tile[0], min(sum(tile), 12) - 1

    def holds(self, m: int) -> list[bool]:
        points = ({"m": m, "p": p, "q": q} for p in range(self.first, self.last + 1) for q in range(3))
        return [bool(any_term(alternatives([self.part]), at, {}, 1)[0]) for at in points]

    def between(self, found) -> list[int]:
        """Return the values of m between the ends of a loop."""
        names = {"p_first": self.first, "p_last": self.last, "tl": Maximum}
        low, high = ([eval(t, {"__builtins__": {}}, names) for t in side] for side in found)
        return list(range(max([0, *low]), min([11, *high])))


@st.composite
def tiles(draw: st.DrawFn, ops: tuple[str, ...]) -> Tile:
    factors = draw(st.tuples(st.integers(-4, 4).filter(bool), st.integers(-4, 4), st.integers(-4, 4)))
    place = draw(st.tuples(st.integers(0, 8), st.integers(1, 4)))
    return Tile(factors, draw(st.integers(-40, 40)), draw(st.sampled_from(ops)), place)


SEEN = {"p": ("p_first", "p_last")}


@settings(max_examples=400, deadline=None)
@given(tile=tiles(("<", "<=", ">", ">=", "==")))
def test_a_loop_leaves_out_just_the_steps_without_a_point(tile: Tile) -> None:
    """Under an equation there may be some between its ends too."""
    found = tile.between(ends([tile.part], "m", SEEN, tile.sizes))
    live = [m for m in range(11) if any(tile.holds(m))]
    if live and tile.part.ops != ("==",):
        assert found == live
    assert set(live) <= set(found)


@settings(max_examples=300, deadline=None)
@given(tile=tiles(("<", "<=", ">", ">=")))
def test_where_a_step_needs_no_mask_every_point_holds(tile: Tile) -> None:
    found = sure_ends(tile.part, "m", SEEN, tile.sizes)
    assert found is not None
    assert tile.between(found) == [m for m in range(11) if all(tile.holds(m))]


class Maximum:
    """What the text of a bound asks of Triton."""

    maximum = staticmethod(max)


def test_the_command_writes_a_file_and_says_what_it_is(tmp_path):
    out = tmp_path / "flash.py"
    words = ["write", "attention_1pass", "--sizes", FLASH, "--on", "a100", "--out", str(out), "--json"]
    found = runner.invoke(app, words)
    assert found.exit_code == 0
    document = json.loads(found.stdout)
    assert document["file"] == str(out)
    (kernel,) = document["kernels"]
    assert kernel["reads"] == ["Q", "K", "V"]
    assert kernel["writes"] == ["AV"]
    assert kernel["blocks"] * kernel["constants"]["BLOCK_P"] == 4096 * 32
    assert document["prediction"]["latency_s"] > 0
    compile(out.read_text(), str(out), "exec")
    shown = runner.invoke(app, words[:-3])
    assert shown.stdout == out.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention_3pass", "--sizes", "E=64"], "needs the size of"),
        (
            ["attention_3pass", "--sizes", "E=4,F=4,M=8,P=8", "--dtype", "fp8"],
            "expected one of fp32, bf16, fp16",
        ),
        (["nothing", "--sizes", "E=4"], "nothing"),
        (["gemm", "--sizes", "M=4,N=4,K=4", "--on", "h999"], "h999"),
        (["gemm", "--sizes", "M=4,N=4,K=4", "--out", "/no/such/folder/x.py"], "there is no folder"),
        (["gemm", "--sizes", "M=4,N=4,K=4", "--kernels", "X"], "X"),
    ],
)
def test_bad_words_are_refused(words, message):
    found = runner.invoke(app, ["write", *words])
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_state_of_which_some_elements_do_not_exist_is_refused_by_its_name():
    text = parse(
        "cascade gaps\nrank T D\ninput X[D, T]\noutput Y[D]\nS[0, d] = 0\niterate t {\n"
        "  S[t + 1, d] = S[t, d] + X[d, t] where t % 2 == 0 or d > 3\n}\nY[d] = S[T, d]\n"
    )
    with pytest.raises(CannotWriteError, match="S: a state of which some elements may not exist"):
        write_program(text, "T=9,D=20")


def test_what_32_bits_do_not_hold_is_refused():
    """A coordinate beyond them had become negative, below every size, and an address before its tensor."""
    text = parse("cascade rows\nrank E M\ninput Q[E, M]\noutput O[M]\nO[m] = Q[e, m]\n")
    with pytest.raises(CannotWriteError, match="M=3,000,000,000: coordinates are 32-bit numbers"):
        write_program(text, "E=4,M=3000000000")
    assert "tl.int64" in write_program(text, "E=4,M=2000000000").text
    with pytest.raises(CannotWriteError, match="thread blocks; a launch has at most 2,147,483,647"):
        write_program(text, "E=4,M=64K,B=1000000,H=1000")


def test_a_selection_among_more_than_a_tile_can_hold_is_refused():
    text = parse("cascade best\nrank M J\ninput X[M]\noutput T[J]\nT[j] = X[m] :: topk(m -> j)\n")
    assert "tl.argmax" in write_program(text, "M=1M,J=4").text
    with pytest.raises(
        MappingError,
        match=r"T: a block cannot take less of it at a time than 2,097,152 elements \(2097152 of M\)",
    ):
        write_program(text, "M=2M,J=4")


def test_a_selection_over_too_few_says_which_do_not_exist():
    text = parse(
        "cascade best\nrank M P J\ninput X[M, P] V[M]\noutput O[P]\n"
        "T[p, j] = X[m, p] :: topk(m -> j) where m <= p\nO[p] = V[T[p, j]] :: sum(j)\n"
    )
    assert "-1" in write_program(text, "M=8,P=8,J=3").text


def test_a_cascade_that_is_none_is_refused():
    with pytest.raises((CascadeError, MappingError, TypeError)):
        write_program("attention_3pass", "E=4")
