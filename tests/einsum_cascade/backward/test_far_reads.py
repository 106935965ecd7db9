"""Gradients where a step looks back further than one, states are read out of turn, data stand in for what is absent,
or numbers grow until differences of them say nothing."""

from __future__ import annotations

import pytest
from differences import check

from einsum_cascade import CascadeError, gradients, parse, zoo
from einsum_cascade.backward.gradients import Gradients
from einsum_cascade.backward.trials import hold

HEAD = "cascade mine\nrank E T\ninput X[E, T] Y[E]\noutput Z[E]\n"
FIRST = "A[0, e] = Y[e]\niterate t {\n  L[t, e] = X[e, t] * A[t, e]\n"
LAST = "}\nZ[e] = A[T, e]\n"

# What reads a tensor of its block, or a state, as it was some steps before.
EARLIER = {
    "padded": "A[t+1, e] = pad(L[t - 1, e], 1) + sin(L[t, e])",
    "absent": "C[t, e] = L[t - 2, e] * X[e, t]\n  A[t+1, e] = 0.5 * A[t, e] + pad(C[t, e], 1)",
    "several": "A[t+1, e] = tanh(pad(L[t - 1, e], 1) * pad(L[t - 3, e], Y[e]) + L[t, e])",
    "of each other": "K[t, e] = pad(L[t - 1, e + 1], 1) * L[t, e]\n"
    "  A[t+1, e] = K[t, e] * pad(K[t - 1, e], 1) + pad(L[t - 2, e], Y[e])",
    "a state": "A[t+1, e] = 0.3 * L[t, e] + sin(pad(A[t - 1, e], 1)) * X[e, t]",
    "only earlier": "A[t+1, e] = sin(pad(A[t - 1, e], 1)) * X[e, t]",
    "a fraction": "C[t, e] = L[t // 2, e] * pad(L[t - 1 - t // 3, e], 1) * pad(A[t // 2, e], 1)\n"
    "  A[t+1, e] = 0.3 * A[t, e] + tanh(C[t, e])",
}


@pytest.mark.parametrize("body", EARLIER.values(), ids=EARLIER.keys())
def test_earlier_steps(body: str) -> None:
    check(f"{HEAD}{FIRST}  {body}\n{LAST}", "E=3,T=6")


# What a block reads of tensors before it, otherwise than at its step.
FROM_THE_END = {
    "the last first": "A[t+1, e] = A[t, e] + L[T - 1 - t, e]",
    "with a decay": "A[t+1, e] = A[t, e] * sin(L[T - 1 - t, e]) + X[e, t]",
    "both ways": "A[t+1, e] = tanh(A[t, e] * L[t, e]) + L[T - 1 - t, e]",
    "masked": "A[t+1, e] = A[t, e] * X[e, t] + pad(K[T - 1 - t, e], 2)",
    "one before": "A[t+1, e] = A[t, e] * X[e, t] + pad(L[T - 2 - t, e], 1)",
}


@pytest.mark.parametrize("body", FROM_THE_END.values(), ids=FROM_THE_END.keys())
def test_from_the_end(body: str) -> None:
    first = "L[t, e] = X[e, t] * X[e, t]\nK[t, e] = L[t, e] * Y[e] where t <= 2*e\n"
    check(f"{HEAD}{first}A[0, e] = Y[e]\niterate t {{\n  {body}\n{LAST}", "E=3,T=6")


# What reads all earlier steps, or a window of them.
ALL = {
    "a sum": "C[t, e] = L[s, e] * X[e, s] :: sum(s) where s <= t\n  A[t+1, e] = tanh(C[t, e])",
    "the largest": "C[t, e] = L[s, e] :: max(s) where s <= t\n  A[t+1, e] = 0.3 * A[t, e] + tanh(C[t, e])",
    "what states were": "C[t, e] = A[s, e] * X[e, s] :: sum(s) where s <= t\n  A[t+1, e] = tanh(C[t, e])",
    "what they became": "A[t+1, e] = A[t, e] * X[e, t] + L[t, e]\n  C[t, e] = A[s + 1, e] :: sum(s) where s <= t",
    "a window": "C[t, e] = L[t - w, e] * Y[e] :: sum(w)\n  D[t, e] = L[t - W, e]\n"
    "  A[t+1, e] = 0.3 * A[t, e] + tanh(C[t, e]) + pad(D[t, e], 1)",
}


@pytest.mark.parametrize("name", ALL)
def test_all_earlier_steps(name: str) -> None:
    last = "}\nZ[e] = C[t, e] * C[t, e]\n" if "became" in name else LAST
    head = HEAD.replace(
        "rank E T\n", "rank E T W\nrank S = T\n" if "window" in name else "rank E T\nrank S = T\n"
    )
    found = check(f"{head}{FIRST}  {ALL[name]}\n{last}", "E=3,T=5,W=2" if "window" in name else "E=3,T=5")
    # Nothing is read that a later turn has yet to compute.
    assert name == "a window" or "u2 <= u" in str(found.cascade)


def test_attention_over_what_the_recurrence_has_made() -> None:
    body = """  Q[s, t] = L[s, e] * A[t, e] where s <= t
  G[t]    = Q[s, t] :: max(s)
  N[s, t] = exp(Q[s, t] - G[t])
  D[t]    = N[s, t] :: sum(s)
  C[t, e] = N[s, t] * L[s, e] / D[t] :: sum(s)
  A[t+1, e] = 0.3 * A[t, e] + C[t, e]
"""
    check(HEAD.replace("rank E T\n", "rank E T\nrank S = T\n") + FIRST + body + LAST, "E=3,T=5")


STEP = "A[0, e] = Y[e]\niterate t {\n  A[t+1, e] = tanh(0.3 * A[t, e] + X[e, t])\n}\n"
# What reads a state from behind its block otherwise than step by step.
PLACES = {
    "backwards": "Z[e] = A[T - t, e] * X[e, t] * sin(A[t, e])",
    "the first": "Z[e] = A[0, e] * X[e, 2] + A[2, e]**2",
    "before the last": "Z[e] = A[T - 1, e] * X[e, 2] * pad(A[t - 1, e], 2) :: sum(t)",
    "chosen": "J[e] = X[e, t] :: argmax(t)\nZ[e] = A[J[e] + 1, e] * pad(A[J[e] - 1, e], 2) * A[J[e], e]",
    "by another rank": "Z[e] = A[e, e] * Y[e]",
    "in another block": "B[0, e] = A[0, e]\niterate u {\n"
    "  B[u+1, e] = sin(B[u, e] * X[e, T - 1 - u] + A[T - u, e])\n}\nZ[e] = B[U, e] * A[T, e]",
}


@pytest.mark.parametrize("name", PLACES)
def test_states_out_of_turn(name: str) -> None:
    head = HEAD.replace("rank E T\n", "rank E T\nrank U = T\n") if "block" in name else HEAD
    check(f"{head}{STEP}{PLACES[name]}\n", "E=3,T=4")


def test_a_state_by_another_slot() -> None:
    text = FIRST.replace("A[0, e]", "A[e, 0]").replace("L[t, e]", "L[e, t]").replace("A[t, e]", "A[e, t]")
    text += "  A[e, t+1] = 0.3 * A[e, t] + pad(L[e, t - 2], Y[e]) * sin(pad(A[e, t - 1], 1))\n}\n"
    check(f"{HEAD}{text}B[e] = A[e, T - t] * A[e, t]\nZ[e] = B[e] * A[e, 2]\n", "E=3,T=5")


# What stands in place of an absent element has its own share of the gradient.
INSTEAD = {
    "an input": "Z[i] = pad(X[i - 1], Y[i]) * W[i, 0]",
    "of what is masked": "S[i] = X[i] * Y[i] where i > 1\nZ[i] = pad(S[i], 2 * Y[i]) + X[i]**2",
    "by a mask of data": "S[i, j] = X[i] * Y[j] where W[i, j] > 0\nZ[i] = pad(S[i, j], Y[i] * X[j]) * Y[j]",
    "absent itself": "Z[i] = pad(X[i - 2], Y[i + 1])",
    "one in the other": "Z[i] = pad(X[i - 2], pad(Y[i - 1], X[0])) * X[i]",
    "never": "Z[i] = pad(X[i], Y[i]) * X[i]",
    "the largest": "Z[i] = pad(X[i - j], Y[j]) * Y[i] :: max(j)",
}


@pytest.mark.parametrize("body", INSTEAD.values(), ids=INSTEAD.keys())
def test_what_stands_in_place_of_what_is_absent(body: str) -> None:
    check(f"cascade mine\nrank I J\ninput X[I] Y[I] W[I, J]\noutput Z[I]\n{body}\n", "I=5,J=5")


# Twelve steps, as are tried first, pass 1e300, or have no digits left in differences of 1e-5.
HUGE = {
    "squares": "A[t, e] * A[t, e] + X[e, t]",
    "cubes": "A[t, e] ** 3 - Y[e] * X[e, t]",
    "towers": "exp(A[t, e] + X[e, t])",
    "products": "1e40 * A[t, e] * X[e, t]",
}


@pytest.mark.parametrize("step", HUGE.values(), ids=HUGE.keys())
def test_numbers_that_grow(step: str) -> None:
    text = f"{HEAD}A[0, e] = 0.1 * Y[e]\niterate t {{\n  A[t+1, e] = {step}\n}}\nZ[e] = A[T, e]\n"
    cascade = parse(text)
    found = gradients(cascade)
    assert _is_told(found, cascade_text=text)


def _is_told(found: Gradients, *, cascade_text: str) -> bool:
    """Tell whether the gradient is told from one that is a thousandth larger, and from one of the other sign."""
    cascade = parse(cascade_text)
    (name, target), *_ = found.wrt.items()
    lines = str(found.cascade).splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.strip().startswith(f"{target}["))
    for factor in ("1.001", "-1"):
        left, right = lines[at].split(" = ", 1)
        wrong = [*lines[:at], f"{left} = {factor} * ({right})", *lines[at + 1 :]]
        if hold(cascade, parse("\n".join(wrong) + "\n"), found.given, {name: target}) is not False:
            return False
    return True


def test_a_wrong_gradient_is_told_where_numbers_grow_too() -> None:
    text = str(zoo.load("attention_3pass"))
    assert _is_told(gradients(parse(text), ["V"]), cascade_text=text)


def test_what_cannot_be_told_is_refused() -> None:
    """A tower of exponentials without an end in sight: no inputs were found at which anything is finite."""
    with pytest.raises(CascadeError, match="could not be confirmed"):
        gradients(parse(f"{HEAD}Z[e] = exp(exp(exp(exp(9 + 0 * X[e, t])))) * Y[e] :: sum(t)\n"))


@pytest.mark.parametrize(
    ("first", "steps"),
    [
        (
            "0 where e < E - 1",
            ["S[t + 1, e] = S[t, e]*G[t] + K[e, t] where e > 1", "O[e, t] = S[t, e]*K[e, t] where e + t < 6"],
        ),
        ("X[e] where e < E - 1", ["S[t + 1, e] = S[t, e]*G[t] + X[e]", "O[e, t] = S[t + 1, e] where e > 1"]),
    ],
)
def test_a_state_of_which_nothing_is_left_at_small_sizes(first: str, steps: list[str]) -> None:
    """At E = 3 no element of the state exists: gradients that flow there are refused, though they hold at E = 8."""
    lines = "".join(f"  {line}\n" for line in steps)
    text = (
        "cascade lost\nrank E T\ninput K[E, T]  G[T]  X[E]\noutput O[E, T]\n"
        f"S[0, e] = {first}\niterate t {{\n{lines}}}\n"
    )
    with pytest.raises(CascadeError, match="hold"):
        gradients(parse(text))
