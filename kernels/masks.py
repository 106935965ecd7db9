"""Which keys a query sees under the common masks, and how many pairs that leaves: plain integers, no tensors."""

from __future__ import annotations

from einsum_cascade.errors import KernelError


def limits(*, causal: bool, window: int | None, farthest: int | None = None) -> tuple[int | None, int | None]:
    """Return how far a query sees to the left and to the right of itself; None where nothing limits it.

    Args:
        causal: a query sees no key after itself.
        window: a causal query sees its last `window` keys, itself included; otherwise `window` is the whole width,
            centred on the query, and an even one looks one key further left.
        farthest: no key is further from any query: a wider window comes to the same, and a kernel counts places in 32
            bits.

    Raises:
        KernelError: a window without keys.

    >>> limits(causal=True, window=2**40, farthest=90)
    (90, 0)
    >>> limits(causal=True, window=4), limits(causal=False, window=4), limits(causal=True, window=None)
    ((3, 0), (2, 1), (None, 0))
    """
    if window is not None and window < 1:
        raise KernelError(f"window={window}: expected a number of keys, 1 or more")
    if window is None:
        return None, 0 if causal else None
    left, right = (window - 1, 0) if causal else (window // 2, window - 1 - window // 2)
    return (left, right) if farthest is None else (min(left, farthest), min(right, farthest))


def visible_pairs(seq: int, *, causal: bool, window: int | None) -> int:
    """Return the query-key pairs that are visible among `seq` tokens.

    >>> visible_pairs(4, causal=True, window=None), visible_pairs(4, causal=False, window=2)
    (10, 7)
    """
    sides = (seq - 1 if side is None else min(side, seq - 1) for side in limits(causal=causal, window=window))
    # A diagonal at distance d from the main one holds seq - d pairs.
    return seq + sum(side * seq - side * (side + 1) // 2 for side in sides)
