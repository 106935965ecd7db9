"""Pass counts of random cascades against a walk over single points, which knows nothing of Einsums or levels."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from pebbles import Point, reading
from tiny_cascades import tiny_cascade

from einsum_cascade import parse
from einsum_cascade.analysis.passes import passes
from einsum_cascade.declarations import variable_of

# At its last element a walk is at the end of one pass and as good as at the beginning of the next: as many elements
# as there are passes, and more, so that this saves none.
LONG, SHORT = 7, 2


def walked(text: str, rank: str) -> int:
    """Return how often a machine walks a rank that meets its elements in order and starts anew when it has to.

    A point, or a term of a sum, that belongs to an element can be made when the walk is there and all that it reads has
    been made: in the same pass at an element before it or at this one, or in an earlier pass. What belongs to no
    element is made as soon as all that it reads is there.
    """
    cascade = parse(text)
    sizes = dict.fromkeys("MPE", SHORT) | {rank: LONG}
    walk = variable_of(rank)
    made: dict[Point, tuple[int, int]] = {}
    last = 1
    for point, terms in reading(cascade, sizes).places.items():
        there = (0, 0)
        for at, reads in terms:
            ready = max((made.get(p, (0, 0)) for p in reads), default=(0, 0))
            if walk in at:
                step = at[walk]
                number = max(ready[0], 1)
                ready = (number if (number, step) >= ready else number + 1, step)
                last = max(last, ready[0])
            there = max(there, ready)
        made[point] = there
    return last


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["M", "P", "E"]))
def test_passes_are_those_of_a_walk(seed: int, rank: str) -> None:
    text = tiny_cascade(seed, plain=True).text
    assert passes(parse(text), rank).count == walked(text, rank), (rank, text)
