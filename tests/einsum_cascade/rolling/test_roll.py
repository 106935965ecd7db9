"""Loops of PyTorch as iterate blocks: the function itself at other lengths is what they are held against."""

from __future__ import annotations

from functools import partial
from typing import Any

import loops
import numpy as np
import pytest
import torch

from einsum_cascade import CascadeError, evaluate, from_torch, in_chunks, parse, passes, render
from einsum_cascade.rolling.roll import loops_of
from einsum_cascade.sizes import resolve
from einsum_cascade.tracing.tracer import trace

# Function, shapes by length, and whether its recurrence has chunks.
LOOPS: dict[str, tuple[Any, bool]] = {
    "delta_rule": (lambda n: [(2, 3, n, 5), (2, 3, n, 5), (2, 3, n, 4), (2, 3, n)], True),
    "gated_linear": (lambda n: [(2, 3, n, 5), (2, 3, n, 5), (2, 3, n, 4), (2, 3, n, 5)], True),
    "selective_scan": (lambda n: [(2, 7, n), (2, 7, n), (7, 3), (2, 3, n), (2, 3, n), (7,)], True),
    "mlstm": (lambda n: [(n, 5), (n, 5), (n, 7), (n,), (n,)], True),
    "recurrent": (lambda n: [(2, n, 3), (3, 7), (7, 7), (2, 7)], False),
    "backwards": (lambda n: [(n, 3), (n, 3)], False),
    "positions": (lambda n: [(n, 3)], True),
    "gated_delta": (lambda n: [(2, 3, n, 5), (2, 3, n, 5), (2, 3, n, 4), (2, 3, n), (2, 3, n)], True),
    "sliced": (lambda n: [(2, n, 5), (2, n, 5)], True),
    "online_softmax": (lambda n: [(3, 4), (n, 4), (n, 5)], True),
    "momentum_memory": (lambda n: [(n, 4), (n, 4), (n, 5), (n,), (n,), (n,)], True),
    "feature_map": (lambda n: [(n, 5), (n, 5), (n, 7)], True),
}


def given(name: str, length: int) -> list[torch.Tensor]:
    """Random tensors of a function at a length; keys of length one, so that delta rules stay in range."""
    made = torch.Generator().manual_seed(length)
    found = [torch.randn(s, generator=made, dtype=torch.float64) for s in LOOPS[name][0](length)]
    if name in ("delta_rule", "gated_delta", "momentum_memory"):
        found[1] = found[1] / found[1].norm(dim=-1, keepdim=True)
    return found


def worst(name: str, cascade: Any, length: int, **more: int) -> float:
    """Largest difference of a cascade and the function that it was traced from, at a length of its own."""
    tensors = given(name, length)
    sizes: dict[str, int] = dict(more)
    for s, x in zip(cascade.inputs, tensors, strict=True):
        sizes |= {r: n for r, n in zip(s.ranks, x.shape, strict=True) if r in cascade.free_ranks}
    inputs = {s.tensor: x.numpy() for s, x in zip(cascade.inputs, tensors, strict=True)}
    known = resolve(cascade, sizes)
    out = getattr(loops, name)(*tensors)
    wanted = list(out) if isinstance(out, tuple) else [out]
    found = evaluate(cascade, known, inputs)
    return max(
        float(np.abs(found[s.tensor].reshape(w.shape) - w.numpy()).max() / max(1.0, float(w.abs().max())))
        for s, w in zip(cascade.outputs, wanted, strict=True)
    )


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("steps", [4, 6])
def test_a_loop_is_a_block_that_holds_for_any_length(name: str, steps: int) -> None:
    cascade = from_torch(getattr(loops, name), *given(name, steps), roll=True)
    assert parse(render(cascade)) == cascade
    assert {block for _, block in cascade.statements} >= {"t"}
    assert len(cascade.einsums) < 14  # not its steps one by one
    for length in (1, 3, 9):
        assert worst(name, cascade, length) < 1e-12


@pytest.mark.parametrize("name", [n for n, (_, chunks) in LOOPS.items() if chunks])
def test_a_loop_can_be_walked_in_chunks(name: str) -> None:
    """From PyTorch's steps one after the other to products of matrices, with no text between."""
    cascade = from_torch(getattr(loops, name), *given(name, 4), roll=True)
    chunked = in_chunks(cascade, size=4).cascade
    assert worst(name, chunked, 12, T1=3) < 1e-11


def test_a_loop_of_a_fixed_number_of_steps_is_refused() -> None:
    """It repeats itself, but at another length it is not the whole of a rank."""

    def fixed(x: torch.Tensor) -> torch.Tensor:
        s, out = torch.zeros_like(x[0]), []
        for t in range(4):
            s = s * 0.5 + x[t]
            out.append(s * 2 + s.exp())
        return torch.stack(out)

    cascade, sizes, _ = trace(fixed, torch.randn(4, 3))
    loop = next(loops_of(cascade, sizes))
    assert loop.steps == {"T": 4}
    with pytest.raises(CascadeError, match="otherwise at other lengths"):
        from_torch(fixed, torch.randn(4, 3), roll=True)
    # Of five rows four are walked: no block says that.
    with pytest.raises(CascadeError, match="again and again"):
        from_torch(fixed, torch.randn(5, 3), roll=True)


def test_what_is_no_loop_is_refused() -> None:
    with pytest.raises(CascadeError, match="at least three steps"):
        from_torch(lambda x: x * 2, torch.randn(4, 3), roll=True)
    with pytest.raises(CascadeError, match="at least three steps"):
        from_torch(loops.recurrent, *given("recurrent", 2), roll=True)


class Gated(torch.nn.Module):
    """A gated unit whose first step reads zeros, beside the input in one tensor: less than the others compute."""

    def __init__(self, steps: int = 0) -> None:
        super().__init__()
        self.gate, self.new = torch.nn.Linear(7, 4), torch.nn.Linear(7, 4)
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, out = x.new_zeros(x.shape[0], 4), []
        for t in range(self.steps or x.shape[1]):
            both = torch.cat([x[:, t], h], -1)
            z = torch.sigmoid(self.gate(both))
            h = (1 - z) * h + z * torch.tanh(self.new(both))
            out.append(h)
        return torch.stack(out, 1)


def test_a_module_s_loop_holds_for_any_length() -> None:
    module = Gated().double()
    rolled = trace(module, torch.randn(2, 4, 3, dtype=torch.float64), roll=True)
    assert len(rolled.cascade.einsums) < 10
    assert rolled.sizes["T"] == 4
    x = torch.randn(5, 9, 3, dtype=torch.float64)
    (batch, _, _) = next(s.ranks for s in rolled.cascade.inputs if s.tensor == "X")
    sizes = {r: n for r, n in rolled.sizes.items() if r in rolled.cascade.free_ranks}
    found = evaluate(rolled.cascade, sizes | {"T": 9, batch: 5}, rolled.inputs | {"X": x.numpy()})
    wanted = module(x).detach().numpy()
    np.testing.assert_allclose(found[rolled.cascade.outputs[0].tensor], wanted, atol=1e-12)


def test_a_module_of_a_fixed_number_of_steps_is_refused() -> None:
    with pytest.raises(CascadeError, match="otherwise at other lengths"):
        from_torch(Gated(steps=4), torch.randn(2, 4, 3), roll=True)


def in_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Online softmax over two keys at a time, as FlashAttention is written down."""
    return online(q, k.view(-1, 2, k.shape[-1]), v.view(-1, 2, v.shape[-1]))


def cut_into_tiles(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    starts = range(0, len(k), 2)
    return online(q, [k[i : i + 2] for i in starts], [v[i : i + 2] for i in starts])


def online(q: torch.Tensor, keys: Any, values: Any) -> torch.Tensor:
    top = torch.full(q.shape[:1], -1e38, dtype=q.dtype)
    total, out = torch.zeros_like(top), q.new_zeros(len(q), values[0].shape[-1])
    for t in range(len(keys)):
        s = q @ keys[t].T
        new = torch.maximum(top, s.amax(-1))
        old, p = torch.exp(top - new), torch.exp(s - new[:, None])
        total = total * old + p.sum(-1)
        out = out * old[:, None] + p @ values[t]
        top = new
    return out / total[:, None]


def learning(w: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A memory that learns by autograd's own gradient, with momentum; slices of one step each."""

    def loss(w: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ((k @ w - v) ** 2).sum()

    momentum, out = torch.zeros_like(w), []
    for t in range(len(k)):
        step = torch.func.grad(loss)(w, k[t : t + 1], v[t : t + 1])
        momentum = 0.9 * momentum - 0.1 * step
        w = 0.99 * w + momentum
        out.append(k[t] @ w)
    return torch.stack(out)


def test_a_loop_of_gradients_is_a_block_too() -> None:
    def example(length: int) -> list[torch.Tensor]:
        return [torch.randn(s, dtype=torch.float64) for s in ((4, 3), (length, 4), (length, 3))]

    cascade, sizes, _ = trace(learning, *example(4), roll=True)
    assert len(cascade.einsums) < 12
    given = example(9)
    names = [s.tensor for s in cascade.inputs]
    known = {r: n for r, n in sizes.items() if r in cascade.free_ranks} | {"T": 9}
    found = evaluate(cascade, known, {n: x.numpy() for n, x in zip(names, given, strict=True)})
    # 1e-9: the memory grows with each step, and so does what rounding adds
    np.testing.assert_allclose(found[cascade.outputs[0].tensor], learning(*given).numpy(), rtol=1e-9)


@pytest.mark.parametrize("tiles", [3, 5])
@pytest.mark.parametrize("fn", [in_tiles, cut_into_tiles])
def test_a_loop_over_tiles_walks_the_outer_part_of_a_rank(fn: Any, tiles: int) -> None:
    """The block is FlashAttention's: one pass, and any number of tiles of any size."""
    q, k, v = (torch.randn(n, d, dtype=torch.float64) for n, d in ((3, 4), (2 * tiles, 4), (2 * tiles, 5)))
    cascade, sizes, _ = trace(fn, q, k, v, roll=True)
    whole = next(r for r, parts in cascade.splits.items() if "T" in parts)
    assert sizes[whole] == 2 * tiles
    assert passes(cascade, whole).count == 1
    k, v = torch.randn(21, 4, dtype=torch.float64), torch.randn(21, 5, dtype=torch.float64)
    tile = cascade.splits[whole][1]
    known = {r: n for r, n in sizes.items() if r in cascade.free_ranks} | {"T": 7, tile: 3}
    names = [s.tensor for s in cascade.inputs]
    found = evaluate(cascade, known, {n: x.numpy() for n, x in zip(names, (q, k, v), strict=True)})
    wanted = torch.softmax(q @ k.T, -1) @ v
    np.testing.assert_allclose(found[cascade.outputs[0].tensor], wanted.numpy(), atol=1e-12)


def chunk_by_chunk(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Linear attention in chunks of three, its rows joined from those of the chunks."""
    state, out = q.new_zeros(q.shape[1], v.shape[1]), []
    for mine, keys, values in zip(q.split(3), k.split(3), v.split(3), strict=True):
        out.append(mine @ state + torch.tril(mine @ keys.T) @ values)
        state = state + keys.T @ values
    return torch.cat(out)


def chunk_by_chunk_in_place(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same, written to the rows of what is handed back."""
    state, out = q.new_zeros(q.shape[1], v.shape[1]), torch.empty_like(v)
    for i in range(0, q.shape[0], 3):
        mine, keys, values = (x[i : i + 3] for x in (q, k, v))
        out[i : i + 3] = mine @ state + torch.tril(mine @ keys.T) @ values
        state = state + keys.T @ values
    return out


@pytest.mark.parametrize("chunks", [chunk_by_chunk, chunk_by_chunk_in_place])
def test_rows_of_tiles_are_joined(chunks: Any) -> None:
    def example(length: int) -> list[torch.Tensor]:
        return [torch.randn(length, d, dtype=torch.float64) for d in (4, 4, 5)]

    cascade, sizes, _ = trace(chunks, *example(12), roll=True)
    (steps,) = {block for _, block in cascade.statements if block is not None}
    assert len(cascade.einsums) < 10
    given = example(21)
    names = [s.tensor for s in cascade.inputs]
    known = {r: n for r, n in sizes.items() if r in cascade.free_ranks} | {steps.upper(): 7}
    found = evaluate(cascade, known, {n: x.numpy() for n, x in zip(names, given, strict=True)})
    np.testing.assert_allclose(found["O"], torch.tril(given[0] @ given[1].T) @ given[2], atol=1e-11)
    # No step walks the rows of others.
    assert all(len(e.variables) <= 4 for e, block in cascade.statements if block is not None)


def flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, rows: int = 2, columns: int = 3
) -> tuple[torch.Tensor, torch.Tensor]:
    """FlashAttention as papers and tutorials have it: tiles of queries, within each a loop over tiles of keys."""
    out, logarithms = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype), q.new_zeros(q.shape[0])
    for i in range(0, q.shape[0], rows):
        mine = q[i : i + rows]
        acc = mine.new_zeros(rows, v.shape[1])
        total = mine.new_zeros(rows, 1)
        top = mine.new_full((rows, 1), -1e30)
        for j in range(0, k.shape[0], columns):
            scores = mine @ k[j : j + columns].T / q.shape[1] ** 0.5
            if causal:
                later = (i + torch.arange(rows))[:, None] < j + torch.arange(columns)
                scores = scores.masked_fill(later, -torch.inf)
            now = torch.maximum(top, scores.amax(-1, keepdim=True))
            weights, kept = torch.exp(scores - now), torch.exp(top - now)
            total = kept * total + weights.sum(-1, keepdim=True)
            acc = kept * acc + weights @ v[j : j + columns]
            top = now
        out[i : i + rows] = acc / total
        logarithms[i : i + rows] = (top + total.log())[:, 0]
    return out, logarithms


@pytest.mark.parametrize("causal", [False, True])
def test_a_loop_within_a_loop_over_tiles_of_queries(causal: bool) -> None:
    """The outer steps stand side by side; the block is the inner loop's, one pass over the keys."""
    tensors = [torch.randn(n, d, dtype=torch.float64) for n, d in ((8, 4), (12, 4), (12, 5))]
    cascade, sizes, _ = trace(flash_attention, *tensors, causal, roll=True)
    (steps,) = {block for _, block in cascade.statements if block is not None}
    keys = next(r for r, parts in cascade.splits.items() if parts == (steps.upper(), "M"))
    assert passes(cascade, keys).count == 1
    assert len(cascade.einsums) < 17
    longer = [torch.randn(n, d, dtype=torch.float64) for n, d in ((10, 4), (21, 4), (21, 5))]
    rows = next(parts[0] for r, parts in cascade.splits.items() if r == cascade.inputs[0].ranks[0])
    known = {r: n for r, n in sizes.items() if r in cascade.free_ranks} | {rows: 5, steps.upper(): 7}
    names = [s.tensor for s in cascade.inputs]
    found = evaluate(cascade, known, {n: x.numpy() for n, x in zip(names, longer, strict=True)})
    scores = longer[0] @ longer[1].T / 2
    scores += torch.full((10, 21), -torch.inf if causal else 0.0).triu(1)
    wanted = torch.softmax(scores, -1) @ longer[2], scores.logsumexp(-1)
    for s, w in zip(cascade.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[s.tensor], w.numpy(), atol=1e-12)


class Recurrent(torch.nn.Module):
    """A cell walked along a sequence, its outputs stacked."""

    def __init__(self, kind: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cell = kind(3, 4, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.shape[1], 4)
        memory, out = torch.zeros_like(state), []
        for row in x:
            if isinstance(self.cell, torch.nn.LSTMCell):
                state, memory = self.cell(row, (state, memory))
            else:
                state = self.cell(row, state)
            out.append(state)
        return torch.stack(out)


@pytest.mark.parametrize(
    "cell",
    [
        torch.nn.LSTMCell,
        torch.nn.GRUCell,
        torch.nn.RNNCell,
        partial(torch.nn.RNNCell, nonlinearity="relu"),
        partial(torch.nn.LSTMCell, bias=False),
    ],
    ids=["LSTM", "GRU", "tanh", "relu", "LSTM without bias"],
)
def test_cells_of_recurrent_networks(cell: Any) -> None:
    module, x = Recurrent(cell).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    cascade, sizes, inputs = trace(module, x, roll=True)
    longer = torch.randn(9, 2, 3, dtype=torch.float64)
    known = {r: n for r, n in sizes.items() if r in cascade.free_ranks} | {"T": 9}
    found = evaluate(cascade, known, inputs | {"X": longer.numpy()})
    np.testing.assert_allclose(found[cascade.outputs[0].tensor], module(longer).detach().numpy(), atol=1e-12)


def test_steps_that_differ_are_no_loop() -> None:
    def odd(x: torch.Tensor) -> torch.Tensor:
        s, out = torch.zeros_like(x[0]), []
        for t in range(x.shape[0]):
            s = s * (0.5 if t != 2 else 0.25) + x[t]
            out.append(s * 2 + s.exp())
        return torch.stack(out)

    with pytest.raises(CascadeError, match="again and again"):
        from_torch(odd, torch.randn(6, 3), roll=True)
