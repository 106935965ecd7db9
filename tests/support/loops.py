"""Recurrences as they are written in PyTorch: a Python loop over time, a state, and a list or a row of results."""

from __future__ import annotations

import torch
from torch.nn import functional


def delta_rule(q, k, v, beta):
    """The delta rule as reference code has it: results are written row by row."""
    o = torch.zeros_like(v)
    state = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1]).to(v)
    for i in range(q.shape[2]):
        old = (state.clone() * k[:, :, i][..., None]).sum(-2)
        new = (v[:, :, i].clone() - old) * beta[:, :, i][..., None]
        state = state.clone() + k[:, :, i].unsqueeze(-1) * new.unsqueeze(-2)
        o[:, :, i] = torch.einsum("bhd,bhdm->bhm", q[:, :, i], state)
    return o, state


def gated_linear(q, k, v, gk):
    """Gated linear attention, gates as logarithms; results are stacked."""
    q = q * q.shape[-1] ** -0.5
    state = torch.zeros(q.shape[0], q.shape[1], q.shape[-1], v.shape[-1]).to(v)
    out = []
    for t in range(q.shape[2]):
        state = state * gk[:, :, t].exp()[..., None] + k[:, :, t, :, None] * v[:, :, t, None, :]
        out.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(out, dim=2)


def selective_scan(u, delta, a, b, c, d):
    """Mamba's selective scan."""
    delta = functional.softplus(delta)
    gates = torch.exp(torch.einsum("bdl,dn->bdln", delta, a))
    fed = torch.einsum("bdl,bnl,bdl->bdln", delta, b, u)
    x = a.new_zeros(u.shape[0], *a.shape)
    ys = []
    for i in range(u.shape[2]):
        x = gates[:, :, i] * x + fed[:, :, i]
        ys.append(torch.einsum("bdn,bn->bd", x, c[:, :, i]))
    return torch.stack(ys, dim=2) + u * d[None, :, None]


def mlstm(q, k, v, ig, fg):
    """The matrix memory of xLSTM with the running maximum that holds its gates in range."""
    c, n, m = q.new_zeros(q.shape[1], v.shape[1]), q.new_zeros(q.shape[1]), q.new_zeros(())
    out = []
    for t in range(q.shape[0]):
        forget = functional.logsigmoid(fg[t])
        top = torch.maximum(forget + m, ig[t])
        kept, fed = torch.exp(forget + m - top), torch.exp(ig[t] - top)
        c = kept * c + fed * torch.outer(k[t], v[t])
        n = kept * n + fed * k[t]
        out.append((q[t] @ c) / torch.maximum((q[t] @ n).abs(), torch.exp(-top)))
        m = top
    return torch.stack(out)


def recurrent(x, w, u, h0):
    """A simple recurrent network from a given state."""
    h, out = h0, []
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] @ w + h @ u)
        out.append(h)
    return torch.stack(out, 1), h


def backwards(x, g):
    """A decaying sum from the end."""
    s, out = torch.zeros_like(x[0]), []
    for t in reversed(range(x.shape[0])):
        s = s * torch.sigmoid(g[t]) + x[t]
        out.append(s.exp())
    return torch.stack(out[::-1])


def positions(x):
    """Steps that know their number."""
    s, out = torch.zeros_like(x[0]), []
    for t in range(x.shape[0]):
        s = s + x[t] * (t + 2)
        out.append(s / (t + 1))
    return torch.stack(out)


def gated_delta(q, k, v, beta, g):
    """The delta rule on a decaying memory; rows are written into an empty tensor."""
    state = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1]).to(v)
    o = torch.zeros_like(v)
    for t in range(q.shape[2]):
        state = state * torch.sigmoid(g[:, :, t])[..., None, None]
        new = v[:, :, t] - (state * k[:, :, t][..., None]).sum(-2)
        state = state + k[:, :, t].unsqueeze(-1) * (new * beta[:, :, t][..., None]).unsqueeze(-2)
        o[:, :, t] = torch.einsum("bhd,bhdm->bhm", q[:, :, t] * q.shape[-1] ** -0.5, state)
    return o


def sliced(x, g):
    """Steps read as slices of one element, and put together by `cat`."""
    h, out = torch.zeros_like(x[:, :1]), []
    for t in range(x.shape[1]):
        f = torch.sigmoid(g[:, t : t + 1])
        h = f * h + (1 - f) * x[:, t : t + 1]
        out.append(h)
    return torch.cat(out, dim=1)


def online_softmax(q, k, v):
    """Attention key by key with a running maximum; only the last state counts."""
    m = torch.full((q.shape[0], 1), float("-inf")).to(q)
    total, acc = torch.zeros_like(m), torch.zeros(q.shape[0], v.shape[1]).to(q)
    for j in range(k.shape[0]):
        s = q @ k[j : j + 1].T
        top = torch.maximum(m, s)
        p, kept = torch.exp(s - top), torch.exp(m - top)
        total, acc, m = kept * total + p, acc * kept + p * v[j : j + 1], top
    return acc / total


def momentum_memory(q, k, v, eta, theta, alpha):
    """A memory that is trained while it reads, with momentum and forgetting (Titans)."""
    memory = torch.zeros(v.shape[1], k.shape[1]).to(q)
    surprise, out = torch.zeros_like(memory), []
    for t in range(q.shape[0]):
        error = memory @ k[t] - v[t]
        surprise = torch.sigmoid(eta[t]) * surprise - torch.sigmoid(theta[t]) * torch.outer(error, k[t])
        memory = torch.sigmoid(alpha[t]) * memory + surprise
        out.append(memory @ q[t])
    return torch.stack(out)


def feature_map(q, k, v):
    """Linear attention with a normaliser, over what `unbind` gives."""
    state, z, out = q.new_zeros(q.shape[1], v.shape[1]), q.new_zeros(q.shape[1]), []
    for a, b, c in zip(q.unbind(0), k.unbind(0), v.unbind(0), strict=True):
        fa, fb = functional.elu(a) + 1, functional.elu(b) + 1
        state, z = state + torch.outer(fb, c), z + fb
        out.append((fa @ state) / (fa @ z + 1e-6))
    return torch.stack(out)
