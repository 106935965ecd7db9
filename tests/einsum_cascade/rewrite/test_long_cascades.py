"""Long cascades, as traces of whole models are: no formula nests too deep, and work grows with their length."""

from __future__ import annotations

import numpy as np
import pytest

import einsum_cascade.again
from einsum_cascade import evaluate, parse, random_inputs, reduce_passes


def heads(n: int) -> str:
    """Softmax attention with a text of its own for each head, as a loop over heads is traced."""
    lines = ["cascade heads", "rank E F M P"]
    lines.append("input " + " ".join(f"Q{i}[E, P] K{i}[E, M] V{i}[F, M]" for i in range(n)))
    lines.append("output " + " ".join(f"AV{i}[F, P]" for i in range(n)))
    for i in range(n):
        lines += [
            f"QK{i}[m, p] = Q{i}[e, p] * K{i}[e, m]",
            f"GM{i}[p] = QK{i}[m, p] :: max(m)",
            f"SN{i}[m, p] = exp(QK{i}[m, p] - GM{i}[p])",
            f"SD{i}[p] = SN{i}[m, p] :: sum(m)",
            f"A{i}[m, p] = SN{i}[m, p] / SD{i}[p]",
            f"AV{i}[f, p] = A{i}[m, p] * V{i}[f, m]",
        ]
    return "\n".join(lines) + "\n"


def shares(n: int) -> str:
    """Each step divides by its sum: written out, the last is a formula of 3 * n levels."""
    lines = ["cascade shares", "rank M", "input X0[M]", "output Y[]"]
    for i in range(n):
        lines += [f"S{i}[] = X{i}[m] :: sum(m)", f"X{i + 1}[m] = (2 * X{i}[m] / S{i}[]) * 3"]
    return "\n".join([*lines, f"Y[] = X{n}[m] :: sum(m)"]) + "\n"


def delta_rule(steps: int) -> str:
    """The delta rule unrolled: each step reads the state by its key, and writes what is missing there."""
    lines = ["cascade delta", "rank D I T", "input K[T, D] Q[D] V[T, I] S0[D, I]", "output O[I]"]
    for t in range(steps):
        lines += [
            f"R{t}[i] = K[{t}, d] * S{t}[d, i]",
            f"W{t}[i] = V[{t}, i] - R{t}[i]",
            f"U{t}[d, i] = K[{t}, d] * W{t}[i]",
            f"S{t + 1}[d, i] = S{t}[d, i] + U{t}[d, i]",
        ]
    return "\n".join([*lines, f"O[i] = Q[d] * S{steps}[d, i]"]) + "\n"


def evaluated_items(monkeypatch: pytest.MonkeyPatch, text: str) -> int:
    """Return how many Einsums and blocks a search evaluates after the original."""
    ran: list[str] = []
    run = einsum_cascade.again.run_item

    def counted(cascade, item, values, tensors):
        ran.append(cascade.name)
        run(cascade, item, values, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(einsum_cascade.again, "run_item", counted)
        assert reduce_passes(parse(text), "M").after == 1
    return len(ran)


def test_what_a_search_evaluates_grows_with_the_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each head takes a step, and a step evaluates what it changes: twice the heads take twice the work, not 4 times
    # as where each step evaluates all.
    assert evaluated_items(monkeypatch, heads(8)) < 2.5 * evaluated_items(monkeypatch, heads(4))


def test_more_steps_than_any_short_cascade_takes_and_formulas_beyond_the_deepest() -> None:
    # 45 steps of 3 levels: no formula may nest 100 deep, and 40 steps are allowed to a short cascade.
    cascade = parse(shares(45))
    found = reduce_passes(cascade, "M")
    assert (found.before, found.after) == (46, 1)
    x = {"X0": np.array([0.3, 0.9, 0.4])}
    # each step leaves shares that add up to 2 * 3
    assert evaluate(cascade, {"M": 3}, x)["Y"] == pytest.approx(6)
    assert evaluate(found.cascade, {"M": 3}, x)["Y"] == pytest.approx(6)


def test_the_delta_rule_unrolled_takes_one_pass_over_its_keys() -> None:
    steps, d, i = 7, 3, 2
    cascade = parse(delta_rule(steps))
    found = reduce_passes(cascade, "D")
    assert (found.before, found.after) == (steps + 1, 1)
    sizes = {"D": d, "I": i, "T": steps}
    inputs = random_inputs(cascade, sizes, seed=3)
    state = inputs["S0"]
    for k, v in zip(inputs["K"], inputs["V"], strict=True):
        state = state + np.outer(k, v - k @ state)
    wanted = inputs["Q"] @ state
    assert evaluate(found.cascade, sizes, inputs)["O"] == pytest.approx(wanted, rel=1e-9)
