"""What stands behind a recurrence and reads its states at every step, as gradients do, in chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_recurrences import recurrences

from einsum_cascade import (
    CascadeError,
    bounds,
    evaluate,
    gradients,
    in_chunks,
    parse,
    random_inputs,
    render,
    zoo,
)
from einsum_cascade.cascade import Cascade
from einsum_cascade.declarations import Iterate, Rank
from einsum_cascade.evaluator import difference
from einsum_cascade.expr import Apply, Num, Size, Var, substitute
from einsum_cascade.parser import parse_expression
from einsum_cascade.rewrite.places import Digits

RECURRENCES = (
    "aaren_sequential", "deltanet", "gated_deltanet", "gated_linear", "kimi_delta", "linear_recurrent",
    "mamba2_recurrent", "rwkv6", "rwkv7", "titans",
)  # fmt: skip


def blocks_of(cascade: Cascade) -> list[str]:
    return [i.variable.upper() for i in cascade.body if isinstance(i, Iterate)]


def opened(cascade: Cascade) -> Cascade:
    """Return a cascade whose chunks may have any size up to the one it was written for."""
    ranks = (Rank(r.name) if isinstance(r.size, Num) else r for r in cascade.ranks)
    return replace(cascade, ranks=tuple(ranks))


def both_ways(cascade: Cascade, *, last_first: bool) -> Cascade:
    """Return a cascade with two recurrences in chunks, the last or the first one rewritten first."""
    for rank in sorted(blocks_of(cascade), reverse=last_first):
        cascade = in_chunks(cascade, rank).cascade
    return cascade


def sizes_of(cascade: Cascade, chunks: int, steps: int) -> dict[str, int]:
    """Return sizes of the free ranks: so many chunks of so many steps."""
    parts = {p: n for pair in cascade.splits.values() for p, n in zip(pair, (chunks, steps), strict=True)}
    known = {"E": 3, "F": 2} | parts
    return {r: known[r] for r in cascade.free_ranks}


def same(cascade: Cascade, found: Cascade, chunks: int, steps: int, seed: int = 4) -> None:
    """Hold a cascade in chunks against the one step by step."""
    free = opened(found)
    sizes = {r: {"E": 3, "F": 2}.get(r, chunks * steps) for r in cascade.free_ranks}
    inputs = random_inputs(cascade, sizes, seed=seed)
    got = evaluate(free, sizes_of(free, chunks, steps), inputs)
    for tensor, want in evaluate(cascade, sizes, inputs).items():
        assert difference(got[tensor].reshape(want.shape), want) <= 1e-9, tensor


@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("last_first", [False, True])
def test_gradients_of_recurrences_in_chunks(name: str, last_first: bool) -> None:
    """Forward states and backward states, all gradients, at other sizes than `in_chunks` itself tries."""
    backward = gradients(zoo.load(name)).cascade
    found = both_ways(backward, last_first=last_first)
    assert parse(render(found)) == found
    assert all(rank.rstrip("1") != rank for rank in blocks_of(found))
    for chunks, steps in ((2, 5), (5, 1), (1, 3)):
        same(backward, found, chunks, steps)


@pytest.mark.parametrize(
    "name", ["deltanet", "gated_deltanet", "linear_recurrent", "mamba2_recurrent", "titans"]
)
def test_no_state_is_kept_at_every_step(name: str) -> None:
    """Nothing has both axes of a state and one of the steps of a chunk: gates are alike for all channels."""
    found = both_ways(gradients(zoo.load(name)).cascade, last_first=False)
    inner = {p[-1] for p in found.splits.values()}
    inner |= {r for r, of in found.aliases.items() if of in inner or found.aliases.get(of) in inner}
    for tensor, signature in found.signatures.items():
        assert not ({"E", "F"} <= set(signature.ranks) and inner & set(signature.ranks)), tensor


def test_the_gradient_of_a_gate_takes_no_product_of_states_at_every_pair_of_steps() -> None:
    """The sum over all elements of two states costs as much as they have, once a chunk and once a step."""
    sizes = {"E": 128, "F": 128, "T": 4096, "T0": 64}
    backward = gradients(zoo.load("linear_recurrent")).cascade
    found = both_ways(backward, last_first=False)
    macs = bounds(found, {r: n for r, n in sizes.items() if r in found.rank_names}).operations["mac"]
    # At every pair of steps it would be 64 * E * F for each step, over a hundred times what is needed.
    assert macs < 16 * sizes["T"] * sizes["E"] * sizes["F"]


def _delta(q: Any, k: Any, v: Any, beta: Any) -> Any:
    state, out = q.new_zeros(q.shape[0], v.shape[0]), []
    for t in range(q.shape[1]):
        new = beta[t] * (v[:, t] - k[:, t] @ state)
        state = state + k[:, t, None] * new[None, :]
        out.append(q[:, t] @ state)
    return torch.stack(out, 1)


def test_the_chunks_of_a_delta_rule_are_what_autograd_has() -> None:
    torch.manual_seed(1)
    shapes: Mapping[str, tuple[int, ...]] = {"Q": (3, 12), "K": (3, 12), "V": (2, 12), "BETA": (12,)}
    tensors = {t: torch.randn(s, dtype=torch.float64, requires_grad=True) for t, s in shapes.items()}
    out = _delta(*tensors.values())
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    found = gradients(zoo.load("deltanet"))
    chunked = opened(both_ways(found.cascade, last_first=False))
    inputs = {t: x.detach().numpy() for t, x in tensors.items()} | {"DO": weights.numpy()}
    got = evaluate(chunked, sizes_of(chunked, 3, 4), inputs)
    for tensor, x in tensors.items():
        assert x.grad is not None
        want = x.grad.numpy()
        assert np.allclose(got[found.wrt[tensor]].reshape(want.shape), want, rtol=1e-9, atol=1e-9), tensor


HEAD = (
    "cascade mine\nrank E T\nrank S = T\ninput X[E, T] Y[E] G[T]\noutput Z[{}]\nA[0, e] = Y[e]\n"
    "iterate t {{\n  A[t+1, e] = A[t, e] * sigmoid(G[t]) + X[e, t]\n  B[t, e] = 2 * A[t, e] + X[e, t]\n}}\n"
)
READERS = {
    "by step": ("E, T", "Z[e, t] = A[t, e] * X[e, t]"),
    "summed": ("", "Z[] = A[t + 1, e] * X[e, t] * G[T - t - 1]"),
    "mirrored": ("E, T", "Z[e, t] = A[T - t, e] * X[e, t] + A[T - t - 1, e]"),
    "by another name": ("E", "Z[e] = A[s, e] * X[e, S - s - 1] * A[T - s, e] :: sum(s)"),
    "made of a state": ("E", "Z[e] = B[T - t - 1, e] * X[e, t] * A[t, e]"),
    "masked": ("E, T", "Z[e, t] = A[T - t, e] * X[e, t] where t != 2"),
    "a function": ("E, T", "Z[e, t] = tanh(A[T - t, e]) * X[e, t]"),
    "the largest": ("E", "Z[e] = A[t + 1, e] * X[e, t] :: max(t)"),
    "by blocks": ("E, T", "C[e, s, t] = A[t, e] * X[e, s] where s <= t\nZ[e, t] = C[e, s, t] :: max(s)"),
    "of each other": ("E, T", "C[e, t] = A[T, e] * X[e, t]\nZ[e, t] = C[e, T - t - 1] * Y[e]"),
    "with the last": ("E, T", "Z[e, t] = A[t, e] * A[T, e]"),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_behind_a_block(name: str) -> None:
    ranks, line = READERS[name]
    cascade = parse(HEAD.format(ranks) + line + "\n")
    found = in_chunks(cascade, "T").cascade
    for chunks, steps in ((3, 4), (4, 3), (1, 6)):
        free = {r: {"E": 3, "F": 2}.get(r, chunks * steps) for r in cascade.free_ranks}
        inputs = random_inputs(cascade, free, seed=2)
        got = evaluate(found, {"E": 3, "T1": chunks, "T0": steps}, inputs)["Z"]
        want = evaluate(cascade, free, inputs)["Z"]
        assert difference(got.reshape(want.shape), want) <= 1e-12


def test_another_block_reads_a_copy() -> None:
    text = HEAD.format("E").replace("rank S = T", "rank U = T")
    text += "C[0, e] = 0\niterate u {\n  C[u+1, e] = tanh(C[u, e] + A[T - u, e] * A[T - u - 1, e])\n}\nZ[e] = C[U, e]\n"
    cascade = parse(text)
    found = in_chunks(cascade, "T").cascade
    assert [s.name for s in found.einsums if s.name.startswith("AA")]
    inputs = random_inputs(cascade, "E=3,T=12", seed=2)
    got = evaluate(found, {"E": 3, "T1": 4, "T0": 3}, inputs)["Z"]
    assert difference(got, evaluate(cascade, "E=3,T=12", inputs)["Z"]) <= 1e-12


def test_what_reads_a_state_at_other_steps_is_told() -> None:
    cascade = parse(HEAD.format("E") + "Z[e] = A[t // 2, e] * X[e, t]\n")
    with pytest.raises(CascadeError, match="Z reads A at a step that need not end a chunk"):
        in_chunks(cascade, "T")


@settings(deadline=None, max_examples=12)
@given(text=recurrences(), last_first=st.booleans(), shape=st.sampled_from([(2, 4), (3, 2)]))
def test_gradients_of_random_recurrences(text: str, last_first: bool, shape: tuple[int, int]) -> None:
    """In chunks where the recurrence itself, and that of its gradients, is linear in states; else told."""
    backward = gradients(parse(text), ["K", "V", "G"]).cascade
    try:
        found = both_ways(backward, last_first=last_first)
    except CascadeError as error:
        assert "no gate times the state before it" in str(error)
        return
    assert parse(render(found)) == found
    same(backward, found, *shape)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_digits_of_an_index_are_what_division_gives(data: st.DataObject) -> None:
    """Whatever is read for a quotient or a remainder is that number, for all steps, chunks and sizes."""
    declared = [Rank("T1"), Rank("T0"), Rank("T", Apply("*", (Size("T1"), Size("T0")))), Rank("U", Size("T"))]
    declared += [Rank("U1", Size("T1")), Rank("U0", Size("T0"))]
    step = data.draw(
        st.sampled_from(["t1*T0 + t0", "u1*U0 + u0", "t0", "t1*T0", "T0*t1 + u0", "t", "u1*U0 + t0"])
    )
    form = data.draw(
        st.sampled_from(["{}", "T - ({}) - 1", "U - 1 - ({})", "T - ({})", "({}) + 1", "2*T - ({}) - 1"])
    )
    by = data.draw(st.sampled_from(["T0", "U0"]))
    op = data.draw(st.sampled_from(["//", "%"]))
    node = parse_expression(f"({form.format(step)}) {op} {by}")
    found = Digits(declared).worked_out(node)
    outer, inner = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    values = {
        v: data.draw(st.integers(0, (outer if v.endswith("1") else inner) - 1))
        for v in ("t1", "t0", "u1", "u0")
    }
    values["t"] = data.draw(st.integers(0, outer * inner - 1))
    sizes = {"T1": outer, "U1": outer, "T0": inner, "U0": inner, "T": outer * inner, "U": outer * inner}
    assert _number(found, values, sizes) == _number(node, values, sizes)


def _number(node: Any, values: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    placed = substitute(node, {v: Num(n) for v, n in values.items()})
    if isinstance(placed, Num):
        return int(placed.value)
    if isinstance(placed, Size):
        return sizes[placed.name]
    assert not isinstance(placed, Var)
    args = [_number(a, {}, sizes) for a in placed.args]
    operations = {
        "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": lambda a, b: a // b,
        "%": lambda a, b: a % b, "neg": lambda a: -a,
    }  # fmt: skip
    return int(operations[placed.op](*args))


def test_the_gradient_of_a_running_maximum_is_a_gate_of_0_or_1() -> None:
    text = "cascade mine\nrank T\ninput G[T] K[T]\noutput N[T]\nM[0] = -inf\niterate t {\n"
    text += "  M[t+1] = max(M[t] + G[t], K[t])\n  N[t] = exp(M[t] - M[t+1]) + tanh(M[t+1])\n}\n"
    backward = gradients(parse(text)).cascade
    for last_first in (False, True):
        same(backward, both_ways(backward, last_first=last_first), 3, 3)
