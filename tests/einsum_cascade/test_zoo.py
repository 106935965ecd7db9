"""Every zoo entry against its independent formula, at random sizes, and the file that it lies in."""

from __future__ import annotations

import numpy as np
import pytest

from einsum_cascade import evaluate, render, zoo
from einsum_cascade.evaluator import difference
from einsum_cascade.sizes import resolve
from einsum_cascade.zoo import reference

# Two float64 formulas that add in different orders; the sizes are below ten, so sums have at most ~1000 terms.
TOLERANCE = 1e-10


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", zoo.names())
def test_entry_equals_its_formula(name: str, seed: int) -> None:
    sizes, inputs = reference.draw(name, seed=seed)
    cascade = zoo.load(name)
    found = evaluate(cascade, sizes, inputs)
    expected = reference.reference(name).formula(inputs, resolve(cascade, sizes))
    assert found.keys() == expected.keys()
    for tensor, value in expected.items():
        assert np.isfinite(value).all(), "a formula that gives infinities compares nothing"
        assert found[tensor].shape == np.shape(value)
        assert difference(found[tensor], value) <= TOLERANCE


@pytest.mark.parametrize("name", zoo.names())
def test_entry_is_documented(name: str) -> None:
    cascade = zoo.load(name)
    assert cascade.name == name
    assert cascade.summary.endswith(".")
    assert cascade.source
    assert render(cascade)


def test_every_reference_has_an_entry() -> None:
    assert sorted(reference.table()) == list(zoo.names())
