"""A cascade evaluated after another gives what it gives by itself."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from mutants import mutants
from strategies import Use, uses

from einsum_cascade import evaluate, parse, random_inputs, reduce_passes, zoo
from einsum_cascade.again import evaluated, evaluated_after
from einsum_cascade.cascade import Cascade


def held(before: Cascade, after: Cascade, sizes: dict[str, int], more: dict[str, int], seed: int = 0) -> None:
    """Hold what is evaluated after another cascade against the evaluator, to the last digit."""
    inputs = random_inputs(before, sizes, seed=seed)
    again = evaluated_after(evaluated(before, sizes, inputs), after, sizes | more, inputs, alike=0.0)
    wanted = evaluate(after, sizes | more, inputs)
    assert again.exact
    assert again.outputs().keys() == wanted.keys()
    for t, values in wanted.items():
        np.testing.assert_array_equal(again.outputs()[t], values)


@settings(max_examples=25, deadline=None)
@given(use=uses())
def test_a_changed_cascade_is_evaluated_where_it_changed(use: Use) -> None:
    """Every small mistake in a random cascade, blocks and selections too, gives what it gives by itself."""
    start = evaluated(use.cascade, use.sizes, use.inputs)
    for _, changed in list(mutants(use.cascade))[:12]:
        if changed.inputs != use.cascade.inputs:
            continue
        again = evaluated_after(start, changed, use.sizes, use.inputs, alike=0.0).outputs()
        for t, values in evaluate(changed, use.sizes, use.inputs).items():
            np.testing.assert_array_equal(again[t], values)


@pytest.mark.parametrize("name", ["attention_3pass", "attention_2pass_local", "attention_causal"])
def test_each_stage_after_the_one_before(name: str) -> None:
    stages = reduce_passes(zoo.load(name), "M").stages
    for before, after in itertools.pairwise(stages):
        sizes = dict.fromkeys(before.free_ranks, 4)
        more = {r: 2 for r in after.free_ranks if r not in before.free_ranks}
        held(before, after, {r: n for r, n in sizes.items() if r in after.free_ranks or r == "M"}, more)


def test_only_what_came_out_alike_is_taken_over() -> None:
    head = "cascade c\nrank M\ninput X[M]\noutput Y[]\n"
    one = parse(head + "Z[m] = X[m] * 3\nS[m] = exp(Z[m])\nY[] = S[m] :: sum(m)\n")
    near = parse(head + "Z[m] = X[m] * 3 * (1 + 1e-13)\nS[m] = exp(Z[m])\nY[] = S[m] :: sum(m)\n")
    far = parse(head + "Z[m] = X[m] * 3 * (1 + 1e-10)\nS[m] = exp(Z[m])\nY[] = S[m] :: sum(m)\n")
    x = {"X": np.array([0.5, 2.0, -1.0])}
    start = evaluated(one, {"M": 3}, x)
    taken = evaluated_after(start, near, {"M": 3}, x)
    assert taken.outputs()["Y"] == start.outputs()["Y"]
    assert not taken.exact  # the search evaluates such a result once more as a whole
    assert evaluated_after(start, far, {"M": 3}, x).outputs()["Y"] != start.outputs()["Y"]
    assert evaluated_after(start, near, {"M": 3}, x, alike=0.0).exact


def test_a_state_that_starts_otherwise_is_not_taken_over() -> None:
    text = "cascade c\nrank T\ninput X[T]\noutput Y[]\n"
    text += "S[0] = FIRST\niterate t {\n  S[t+1] = S[t] + X[t]\n}\nY[] = S[T]\n"
    none, four = (parse(text.replace("FIRST", first)) for first in ("0", "4"))
    start = evaluated(none, {"T": 2}, {"X": [1.0, 2.0]})
    assert start.outputs()["Y"] == 3
    assert evaluated_after(start, four, {"T": 2}, {"X": [1.0, 2.0]}).outputs()["Y"] == 7


def test_a_cascade_that_travels_leaves_its_hashes_behind() -> None:
    # strings have other hashes in another process
    cascade = zoo.load("gemm")
    hash(cascade)
    copy = pickle.loads(pickle.dumps(cascade))
    assert copy == cascade and hash(copy) == hash(cascade)
    assert "_hash" not in copy.__getstate__() and "_hash" not in copy.einsums[0].__getstate__()
