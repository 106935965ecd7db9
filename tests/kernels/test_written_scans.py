"""Running states of written kernels, many steps at a time: what the text says, whatever a step makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_files import run, written_file

from einsum_cascade import evaluate, parse, zoo
from einsum_cascade.cascade import Cascade
from einsum_cascade.expr import Access, Apply, Expr, Num, transform
from einsum_cascade.ops import SCALAR
from einsum_cascade.parser import parse_expression
from kernels.written import check_written
from simulator.gpu.fusion.scans import step_of

TEXT = """cascade running
rank   T D
input  X[D, T]  G[T]
output {output}
S[0, d] = {start}
iterate t {{
  {line}
}}
{reader}
"""
SIZES = {"T": 150, "D": 3}


def text_of(line: str, *, start: str = "0", reader: str = "", output: str = "") -> Cascade:
    reader = reader or "Y[d] = S[t + 1, d] * X[d, t]"
    return parse(TEXT.format(line=line, start=start, reader=reader, output=output or "Y[D]"))


def both(cascade: Cascade, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Return what the kernels of a text compute in float32 and what the evaluator does, and the kernels."""
    file = written_file(folder, cascade, SIZES, dtype="fp32")
    rng = np.random.default_rng(6)
    inputs = {"X": rng.standard_normal((3, 150)).astype(np.float32)}
    inputs["G"] = rng.uniform(0.5, 1.0, 150).astype(np.float32)
    source = next(folder.glob("*.py")).read_text()
    return run(file, inputs), evaluate(cascade, SIZES, inputs), source


@pytest.mark.parametrize(
    ("line", "scan"),
    [
        ("S[t + 1, d] = S[t, d] + X[d, t]", "tl.cumsum"),
        ("S[t + 1, d] = X[d, t] - S[t, d]", "_first_order"),
        ("S[t + 1, d] = G[t] * S[t, d] + X[d, t]", "_first_order"),
        ("S[t + 1, d] = (X[d, t] - 2 * (G[t] - S[t, d]) / 3) * G[t]", "_first_order"),
        ("S[t + 1, d] = S[t, d] * G[t]", "_first_order"),
        ("S[t + 1, d] = max(X[d, t], S[t, d])", "_larger"),
        ("S[t + 1, d] = min(S[t, d], X[d, t], G[t])", "_smaller"),
    ],
)
@pytest.mark.parametrize(
    ("reader", "output"),
    [
        ("Y[d] = S[t + 1, d] * X[d, t]", "Y[D]"),
        ("Y[d] = S[t, d] * X[d, t]", "Y[D]"),
        ("Y[d] = S[T, d]", "Y[D]"),
        ("Y[d, t] = S[t, d] + 2 * S[t + 1, d]", "Y[D, T]"),
    ],
)
def test_a_step_of_any_form(line: str, scan: str, reader: str, output: str, tmp_path: Path) -> None:
    """150 steps: two tiles of 64 and a part of one. Read as a step makes the state, as it finds it, and at the end."""
    found, wanted, source = both(text_of(line, start="X[d, 3]", reader=reader, output=output), tmp_path)
    assert scan in source
    # 1e-5: sums of 150 float32 terms in another order
    np.testing.assert_allclose(found["Y"], wanted["Y"], rtol=1e-5, atol=1e-5)


def test_states_that_follow_each_other(tmp_path: Path) -> None:
    """A running sum of a running sum as each step finds it, the second first in the text."""
    cascade = parse("""cascade two
rank   T D
input  X[D, T]  G[T]
output Y[D]
R[0, d] = 1
S[0, d] = 0
iterate t {
  R[t + 1, d] = G[t] * R[t, d] + S[t, d]
  S[t + 1, d] = S[t, d] + X[d, t]
}
Y[d] = R[t + 1, d] * G[t]
""")
    found, wanted, source = both(cascade, tmp_path)
    assert "tl.cumsum" in source
    assert "_first_order" in source
    np.testing.assert_allclose(found["Y"], wanted["Y"], rtol=1e-5, atol=1e-4)


def test_absent_terms_add_nothing(tmp_path: Path) -> None:
    cascade = parse("""cascade absent
rank   T D
input  X[D, T]  G[T]
output Y[D, T]
U[t, d] = exp(X[d, t]) where t % 3 <= d
S[0, d] = 0
iterate t {
  S[t + 1, d] = S[t, d] + pad(U[t, d], 0)
}
Y[d, t] = S[t + 1, d] * G[t]
""")
    found, wanted, source = both(cascade, tmp_path)
    assert "tl.cumsum" in source
    np.testing.assert_allclose(found["Y"], wanted["Y"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("reader", "skips"),
    [
        ("Y[d] = A[t, d] * X[d, t]", True),
        ("B[t, d] = S[t, d] * X[d, t]\nY[d] = B[t, d] + pad(A[t, d], 0) :: sum(t)", False),
        ("Y[d, t] = pad(A[t, d], 0) + S[t + 1, d]", False),
    ],
)
def test_steps_in_which_nobody_has_a_point_are_left_out(reader: str, skips: bool, tmp_path: Path) -> None:
    """What is computed beside a recurrence counts too: it may need the state of a step that leaves it as it is."""
    output = "Y[D, T]" if "Y[d, t]" in reader else "Y[D]"
    cascade = parse(f"""cascade late
rank   T D
input  X[D, T]  G[T]
output {output}
U[t, d] = G[t] * X[d, t] where t >= 90 + d
S[0, d] = X[d, 1]
iterate t {{
  S[t + 1, d] = S[t, d] + pad(U[t, d], 0)
}}
A[t, d] = exp(U[t, d] + S[t, d])
{reader}
""")
    found, wanted, source = both(cascade, tmp_path)
    assert ("_begin" in source) == skips
    np.testing.assert_allclose(found["Y"], wanted["Y"], rtol=1e-4, atol=1e-4)


def test_what_needs_itself_through_others_goes_step_by_step(tmp_path: Path) -> None:
    line = "N[t, d] = tanh(S[t, d])\n  S[t + 1, d] = S[t, d] + N[t, d] * X[d, t]"
    found, wanted, source = both(text_of(line, start="1"), tmp_path)
    assert "scan" not in source
    assert "cumsum" not in source
    np.testing.assert_allclose(found["Y"], wanted["Y"], rtol=1e-4, atol=1e-4)


def test_differences_of_a_sum_that_has_grown_large_are_kept(tmp_path: Path) -> None:
    """Forget gates far apart: in bfloat16 the sum of their logarithms had left nothing of what a step adds."""
    cascade = zoo.load("attention_forgetting")
    file = written_file(tmp_path, cascade, "E=16,F=16,M=300,P=300", dtype="bf16")
    assert str(file.tensors["CF"][1]) == "torch.float32"
    assert check_written(file, device="cpu").ok


STATE = Access("S", ())
LEAVES = st.sampled_from([Access("A", ()), Access("B", ()), Num(2)])
STEPS = st.recursive(
    st.just(STATE),
    lambda inner: st.one_of(
        st.builds(lambda op, a, b: Apply(op, (a, b)), st.sampled_from("+-*/"), inner, LEAVES),
        st.builds(lambda op, a, b: Apply(op, (b, a)), st.sampled_from("+-*"), inner, LEAVES),
        st.builds(lambda a: Apply("neg", (a,)), inner),
    ),
    max_leaves=6,
)


@given(STEPS)
def test_a_step_is_its_factor_times_the_state_and_its_term(value: Expr) -> None:
    cascade = text_of("S[t + 1, d] = S[t, d]")
    here = parse_expression("S[t, d]")
    made = replace(cascade.einsum("S"), value=transform(value, lambda n: here if n == STATE else n))
    step = step_of(cascade, made)
    assert step is not None
    for state in (-1.5, 0.0, 2.0):
        x = {"A": 0.7, "B": -1.3, "S": state}
        factor = 1.0 if step.factor is None else number(step.factor, x)
        term = 0.0 if step.term is None else number(step.term, x)
        # 1e-12: some operations in another order
        assert factor * state + term == pytest.approx(number(made.value, x), rel=1e-12, abs=1e-12)


def number(node: Expr, x: dict[str, float]) -> float:
    if isinstance(node, Num):
        return float(node.value)
    if isinstance(node, Access):
        return x[node.tensor]
    assert isinstance(node, Apply)
    args = [number(arg, x) for arg in node.args]
    return float(SCALAR[node.op].function(*args))
