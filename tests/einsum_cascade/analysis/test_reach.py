"""What points need and what Einsums define, against a slow interpreter that notes what it reads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from interpreter import Absent, Interpreter
from strategies import Use, uses

from einsum_cascade import bounds, parse
from einsum_cascade.analysis.predicates import is_static
from einsum_cascade.analysis.reach import defined, touched
from einsum_cascade.evaluator import points as evaluated
from einsum_cascade.expr import Access, Apply, Compare, walk


class Reading(Interpreter):
    """Notes, by Einsum and tensor, the elements that existing points read, and what each Einsum defines."""

    def __init__(self, use):
        super().__init__(use)
        self.noted, self.now = {}, []

    def reduce(self, e, left, env):
        if left:
            return super().reduce(e, left, env)
        self.now = []
        found = super().reduce(e, left, env)
        if not isinstance(found, Absent):
            for tensor, place in self.now:
                self.noted.setdefault((e.name, tensor), set()).add(place)
        return found

    def value(self, node, env):
        if isinstance(node, Apply) and node.op == "select":  # only the branch that is taken is looked at
            test = self.value(node.args[0], env)
            if isinstance(test, Absent):
                return test
            return self.value(node.args[1 if test else 2], env)
        return super().value(node, env)

    def read(self, node, env):
        found = super().read(node, env)
        if not isinstance(found, Absent):
            self.now.append((node.tensor, tuple(int(self.value(i, env)) for i in node.indices)))
        return found


def decided_by_coordinates(use: Use) -> bool:
    """No predicate reads data, and only given places are gathered from."""
    for e in use.cascade.einsums:
        nodes = [n for root in (e.value, e.where) if root is not None for n in walk(root)]
        if not all(is_static(n) for n in nodes if isinstance(n, Compare)):
            return False
        gathers = [
            a.tensor
            for n in nodes
            if isinstance(n, Access)
            for i in n.indices
            for a in walk(i)
            if isinstance(a, Access)
        ]
        if set(gathers) - {"J0"}:
            return False
    return True


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(uses(iterate=False))
def test_no_more_is_claimed_than_is_read_and_made(use: Use) -> None:
    assume(decided_by_coordinates(use))
    use.inputs["J0"] = np.zeros_like(use.inputs["J0"])  # places inside every axis
    slow = Reading(use)
    with np.errstate(all="ignore"):
        made = slow.run()
    given_ = {s.tensor for s in use.cascade.inputs}
    for e in use.cascade.einsums:
        # What a branch or a computed tensor lacks is taken as there: simulators move it, too.
        chooses = any(isinstance(n, Apply) and n.op == "select" for n in walk(e.value))
        if chooses or not {a.tensor for a in e.reads} <= given_:
            continue
        for tensor, words in touched(use.cascade, e, use.sizes).items():
            if tensor in given_:
                assert words <= len(slow.noted.get((e.name, tensor), ())), (e.name, tensor)
        assert defined(use.cascade, e, use.sizes) <= len(made[e.name]), e.name


HEAD = "cascade c\nrank E G M P R W\nrank H = G*R\ninput K[E, M] Q[M, H] D[P]\noutput O[{out}]\n"


def words(line: str, out: str, tensor: str, **sizes: int) -> int:
    cascade = parse(HEAD.format(out=out) + line + "\n")
    known = {"E": 2, "G": 2, "M": 8, "P": 8, "R": 3, "W": 3, **sizes}
    return touched(cascade, cascade.einsums[-1], known | {"H": known["G"] * known["R"]})[tensor]


def test_by_hand() -> None:
    # Eight queries and a window of three: K[e, p + w] stays inside for p + w < 8.
    assert words("O[p] = K[e, p + w]", "P", "K") == 2 * 8
    assert words("O[p] = pad(K[e, p - 2], 0)", "P", "K") == 2 * 6
    assert words("O[p] = K[e, p] where p < 3", "P", "K") == 2 * 3
    assert words("O[p] = K[e, p] where p < 0", "P", "K") == 0
    # Heads of a group share their keys: six heads reach two of them.
    assert words("O[h] = K[e, h//R]", "H", "K") == 2 * 2
    # The diagonal, every second element, and one element however often it is read.
    assert words("O[p] = K[e, p*2]", "P", "K") == 2 * 4
    assert words("O[p] = K[0, p] * K[1, p]", "P", "K") == 8
    assert words("O[p] = K[0, 0] + D[p]", "P", "K") == 1
    # A place that data give is one place at least.
    assert words("O[p] = K[e, D[p]]", "P", "K") == 2


TOP = """cascade c
rank E M P S
input K[E, M] Q[E, P]
output O[P]
QK[p, m] = Q[e, p] * K[e, m]
J[p, s]  = QK[p, m] :: topk(m -> s){where}
O[p]     = K[e, J[p, s]]
"""


@settings(max_examples=60, deadline=None)
@given(
    points=st.integers(1, 9),
    taps=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 4),
    pad=st.integers(0, 3),
    channels=st.integers(1, 2),
)
def test_a_window_needs_every_element_that_some_point_and_tap_meet(
    points: int, taps: int, stride: int, dilation: int, pad: int, channels: int
) -> None:
    """A convolution with steps, gaps and a border: each element is listed, and counts once."""
    span = stride * (points - 1) + dilation * (taps - 1) + 1
    length = max(1, span - 2 * pad)
    index = f"{stride} * p + {dilation} * r - {pad}"
    read = f"pad(I[c, {index}], 0)" if pad else f"I[c, {index}]"
    text = (
        f"cascade conv\nrank C P R\nrank X = {length}\ninput I[C, X]  W[R]\noutput O[P]\n"
        f"O[p] = {read} * W[r]\n"
    )
    cascade = parse(text)
    met = {stride * p + dilation * r - pad for p in range(points) for r in range(taps)}
    sizes = {"C": channels, "P": points, "R": taps, "X": length}
    wanted = channels * len({x for x in met if 0 <= x < length})
    assert touched(cascade, cascade.einsums[0], sizes)["I"] == wanted


def test_a_window_too_long_to_list_is_counted_by_its_span() -> None:
    """2^40 points and taps reach 2^20 + 2^20 - 1 places."""
    n = 2**20
    text = f"cascade c\nrank P R\nrank X = {2 * n - 1}\ninput I[X]\noutput O[P]\nO[p] = I[p + r]\n"
    cascade = parse(text)
    assert touched(cascade, cascade.einsums[0], {"P": n, "R": n, "X": 2 * n - 1}) == {"I": 2 * n - 1}


def test_a_selection_gives_different_places() -> None:
    sizes = {"E": 2, "M": 8, "P": 4, "S": 3}
    for where, places in (("", 3), (" where m <= p", 3), (" where m < 2", 2), (" where m < 0", 0)):
        cascade = parse(TOP.format(where=where))
        assert touched(cascade, cascade.einsum("O"), sizes)["K"] == 2 * places
        # Under `m <= p` the first query has one key to choose; one place a query is claimed.
        exist = {"": 12, " where m <= p": 4, " where m < 2": 8, " where m < 0": 0}[where]
        assert defined(cascade, cascade.einsum("J"), sizes) == exist


def test_a_sum_of_nothing_is_made_and_a_masked_row_is_not() -> None:
    text = "cascade c\nrank M P\ninput K[M, P]\noutput O[P]\nO[p] = K[m, p] :: {op}(m) where {where}\n"
    for op, where, exist in (
        ("sum", "m < 0", 5),
        ("sum", "p < 2", 2),
        ("argmax", "m < 0", 0),
        ("argmax", "m < p", 4),
    ):
        cascade = parse(text.format(op=op, where=where))
        assert defined(cascade, cascade.einsum("O"), {"M": 4, "P": 5}) == exist
    assert math.isclose(defined(cascade, cascade.einsum("O"), {"M": 4, "P": 1}), 0)


@pytest.mark.parametrize(
    ("first", "update", "least"),
    [
        # 3 results made of 3 inputs each time; R[T] alone, made of A and its first value, where states are plain
        ("R[0] = B[]", "R[t + 1] = R[t] + A[t]", 1 + 3 + 1),
        # the first generation is absent, and with it all that read it: nothing is needed
        ("R[0] = B[] where T < 2", "R[t + 1] = R[t] + A[t]", 0),
        # the generation that t = 1 would give is absent, and so are those after it
        ("R[0] = B[]", "R[t + 1] = R[t] + A[t] where t != 1", 0),
    ],
)
def test_what_an_absent_generation_would_make_is_in_no_bound(first: str, update: str, least: int) -> None:
    """Found by a fuzzer: elements were counted that the evaluator leaves out."""
    cascade = parse(
        f"cascade c\nrank T\ninput A[T] B[]\noutput O[]\n{first}\niterate t {{\n  {update}\n}}\nO[] = R[T]\n"
    )
    assert bounds(cascade, "T=3", word=1).compulsory_bytes == least
    there = evaluated(cascade, "T=3", {"A": np.ones(3), "B": np.array(1.0)})["O"].present
    assert (there is None or bool(there.all())) == (least > 0)
