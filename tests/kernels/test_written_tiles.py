"""Written kernels with tiles that cut every rank in several, whatever its size: what one tile hides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from examples import MORE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Use, uses
from written_files import run, written_file

from einsum_cascade import evaluate, gradients, parse, zoo
from einsum_cascade.evaluator import difference, random_inputs
from kernels.drawn import checkable, inputs_of
from kernels.written import check_written
from simulator.gpu.fusion import kernels as planned
from simulator.gpu.fusion import tiling
from simulator.gpu.fusion.tiling import Tiling
from simulator.gpu.writing.program import write_program
from simulator.gpu.writing.terms import CannotWriteError

# Sums of some terms in float32 against float64, at values of any size.
TOLERANCE = 1e-4


@pytest.fixture
def cut(monkeypatch):
    """Give blocks tiles of so many values, and steps of so many terms, in place of those that are the fastest."""

    def by(tile: int, step: int, parts: int = 1) -> None:
        def few(case, structure, gpu) -> Iterator[Tiling]:
            lengths = dict.fromkeys(structure.blocks, tile)
            whole = Tiling(case, structure, lengths, step=step)
            yield Tiling(case, structure, lengths, step=step, parts=min(parts, whole.most_parts))

        monkeypatch.setattr(planned, "tilings", few)
        monkeypatch.setattr(tiling, "STEP", step)
        monkeypatch.setattr(tiling, "_INNER", step)

    return by


@settings(max_examples=40 * MORE, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    use=uses(), tile=st.integers(1, 4), step=st.integers(1, 3), parts=st.integers(1, 3), eager=st.booleans()
)
def test_random_cascades_in_small_tiles(
    use: Use, tile: int, step: int, parts: int, eager: bool, cut, tmp_path: Path
) -> None:
    cut(tile, step, parts)
    how = "eager" if eager else "fused"
    try:
        file = written_file(tmp_path, use.cascade, use.sizes, dtype="fp32", implementation=how)
    except CannotWriteError:
        return
    found = run(file, use.inputs)
    for tensor, value in evaluate(use.cascade, use.sizes, use.inputs).items():
        if not np.isnan(
            value
        ).any():  # the largest of what is no number is none here, and for Triton the others' largest
            assert difference(found[tensor], value) <= TOLERANCE


NEGATED = """cascade negated
rank   N J
input  A[N, J]  X[N]
output Y[N, J]  Z[N]
Y[n, j] = A[n, j] * X[n] where {}
Z[n]    = Y[n, j] :: sum(j)
"""


@pytest.mark.parametrize(
    "condition",
    [
        "not 2 != j",
        "not 1 <= j < 4",
        "not (j < 2 or j == 4)",
        "not (j > 2 and not n == 3)",
        "not A[n, j] < X[n]",
        "not (j > 2 and A[n, j] < X[n])",
    ],
)
def test_what_does_not_hold_in_a_step(condition: str, cut, tmp_path: Path) -> None:
    """Of a step of one term Triton's interpreter has a Python number, of which `~` is never false."""
    cut(tile=4, step=1)
    cascade, sizes = parse(NEGATED.format(condition)), {"N": 7, "J": 6}
    file = written_file(tmp_path, cascade, sizes, dtype="fp32", kernels=[["Y", "Z"]])
    assert "for j in range" in file.path.read_text()
    inputs = random_inputs(cascade, sizes, seed=2)
    for tensor, value in evaluate(cascade, sizes, inputs).items():
        assert difference(run(file, inputs)[tensor], value) <= TOLERANCE


def test_a_comparison_with_what_never_exists(tmp_path: Path) -> None:
    text = "cascade beyond\nrank M N\ninput B[M, N]  A[M]\noutput U[M, N]\n"
    cascade = parse(text + "U[m, n] = A[m] where pad(B[m + 1, n], 0.5) <= m + 1\n")
    for sizes in ({"M": 1, "N": 5}, {"M": 5, "N": 4}):
        inputs = random_inputs(cascade, sizes)
        found = run(written_file(tmp_path, cascade, sizes, dtype="fp32"), inputs)
        assert difference(found["U"], evaluate(cascade, sizes, inputs)["U"]) <= TOLERANCE


@pytest.mark.parametrize("read", ["B[U[j]]", "B[U[j] + 1]"])
def test_what_is_padded_is_absent_where_its_index_is(read: str, tmp_path: Path) -> None:
    """Some rows look for nothing, by a coordinate alone and by what they hold; beside them B has elements all along."""
    text = "cascade lost\nrank J M\ninput X[J, M]  B[M]\noutput Y[J]\n"
    text += "U[j] = X[j, m] :: argmax(m) where 2 <= j and X[j, m] > 0\n"
    cascade, sizes = parse(f"{text}Y[j] = 10 + pad({read}, 5)\n"), {"J": 6, "M": 4}
    rng = np.random.default_rng(4)
    inputs = {"X": rng.standard_normal((6, 4)), "B": rng.standard_normal(4)}
    inputs["X"][3] = -1.0
    expected = evaluate(cascade, sizes, inputs)["Y"]
    assert expected[[0, 1, 3]] == pytest.approx(15.0)
    found = run(written_file(tmp_path, cascade, sizes, dtype="fp32"), inputs)["Y"]
    assert difference(found, expected) <= TOLERANCE


def test_what_a_source_asked_is_there_for_who_reads_it(tmp_path: Path) -> None:
    """Whether a point of S exists is in U, which the second kernel needs and its text does not name."""
    text = "cascade asked\nrank N J\ninput X[N, J]  B[N, J]\noutput Y[N]\nU[n] = X[n, j] :: argmax(j)\n"
    cascade = parse(f"{text}S[n, j] = B[n, j] where U[n] == j\nY[n] = S[n, j] :: max(j)\n")
    sizes = {"N": 20, "J": 9}
    inputs = random_inputs(cascade, sizes)
    expected = np.take_along_axis(inputs["B"], inputs["X"].argmax(1)[:, None], 1)[:, 0]
    file = written_file(tmp_path, cascade, sizes, dtype="fp32", kernels=[["U", "S"], ["Y"]])
    assert difference(run(file, inputs)["Y"], expected) <= TOLERANCE


def test_a_block_of_more_elements_than_triton_takes_is_refused_with_its_sides() -> None:
    text = "cascade wide\nrank T A B\ninput X[T, A, B]\noutput Y[A, B]\nS[0, a, b] = 0\niterate t {\n"
    text += "  S[t + 1, a, b] = S[t, b, a] + X[t, a, b]\n}\nY[a, b] = S[T, a, b]\n"
    with pytest.raises(
        CannotWriteError, match=r"S: .* 4,194,304 elements \(2048 of A, 2048 of B\); Triton takes 1,048,576"
    ):
        write_program(parse(text.replace("S[t, b, a]", "S[t, b % A, a % B]")), "T=3,A=2000,B=1500")


@pytest.mark.parametrize("batch", [1, 3])
def test_a_backward_pass_is_checked_with_numbers_that_its_type_holds(
    batch: int, tmp_path: Path, capsys
) -> None:
    """A maximum that belongs to no scores: e^30, which fp16 does not hold, was called a wrong kernel."""
    backward = gradients(zoo.load("attention_3pass"), saved="small").cascade
    file = written_file(tmp_path, backward, f"E=64,F=64,M=48,P=40,B={batch}", dtype="fp16")
    outcome = check_written(file)
    assert outcome.ok, outcome
    assert "that fp16 does not hold, so they are drawn" in capsys.readouterr().err
    _, expected, halvings = checkable(file, 0, limit_bytes=2**30)
    assert halvings >= 1
    assert max(float(np.abs(v).max()) for v in expected.values()) < np.finfo(np.float16).max
    whole, half = (inputs_of(file, 0, halvings=n)[0]["Q"].double() for n in (0, 1))
    assert (half == whole / 2).all()


def test_numbers_without_an_axis_are_halved_too(tmp_path: Path) -> None:
    text = "cascade large\nrank M\ninput X[M]  B[]\noutput Y[M]\nY[m] = exp(40 * X[m] * B[])\n"
    file = written_file(tmp_path, parse(text), {"M": 300}, dtype="fp32")
    given, _, halvings = checkable(file, 0, limit_bytes=2**30)
    assert halvings >= 1
    assert given["B"].shape == ()
    assert check_written(file).ok


def test_a_check_of_usual_numbers_takes_them_as_they_are(tmp_path: Path, capsys) -> None:
    file = written_file(tmp_path, zoo.load("attention_3pass"), "E=64,F=64,M=48,P=40", dtype="fp16")
    assert check_written(file).ok
    assert "drawn" not in capsys.readouterr().err
