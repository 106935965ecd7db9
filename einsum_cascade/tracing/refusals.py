"""What can be written in the place of operations that the language lacks."""

from __future__ import annotations

# What can be said in the place of operations that people look for.
_RANDOM = "it is random, and a cascade gives one result: take what is drawn as an input"
INSTEAD = {
    **dict.fromkeys(
        ("rand", "rand_like", "randn", "randn_like", "bernoulli", "exponential", "multinomial"), _RANDOM
    ),
    "fft_rfft": "a long convolution is said by conv1d, or by a table of lags: sum(j) K[i - j] * X[j]",
    "fft_fft": "a transform is a sum of products with cos and sin: matmul with a table of them",
    "linalg_solve_triangular": "a triangular system is solved row by row: a loop over the rows, or iterate t { ... }",
    "linalg_solve": "a system is solved row by row, or approached by products (Newton's iteration)",
    "matrix_exp": "a series: a loop of products; of a diagonal or a single number exp(x)",
    "argwhere": "the shape of the result depends on the data; torch.where(c, x, y) keeps the shape",
    "masked_scatter": "how much is read depends on the data; torch.where(c, x, y) keeps the shape",
    "linalg_inv": "an inverse is approached by products, or rows are eliminated in a loop",
    "conv_transpose1d": "conv1d is said; its transpose is a sum with a condition: sum(t) where t*s + k == i",
    "nonzero": "the shape of the result depends on the data; torch.where(c, x, y) keeps the shape",
    "masked_select": "the shape of the result depends on the data; torch.where(c, x, y) keeps the shape",
    "lstm": "walk nn.LSTMCell along the sequence and trace with roll=True, or write the recurrence as the zoo's lstm",
    "gru": "walk nn.GRUCell along the sequence and trace with roll=True",
}


def hint_for(name: str) -> str:
    """Return what is possible instead of an operation that the language lacks."""
    can = "maps of elements, reductions, products, norms, softmax, views, topk, cumsum and convolutions are said"
    return INSTEAD.get(name.strip("_"), f"{can}; other algorithms are written in the language itself")
