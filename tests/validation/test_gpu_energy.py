"""Measured board power: constants that made the data are found; the shipped ones are no worse than when fitted."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.gpu_energy import fit, power_note, powered_parts
from validation.gpu_sets import attention_rows
from validation.measured import PUBLISHED, read_measured


@settings(max_examples=20, deadline=None)
@given(st.floats(50, 600), st.floats(0.2, 1.8))
def test_constants_that_made_the_data_are_found(idle, scale):
    dynamic, limit = np.linspace(0, 1500, 40), np.full(40, 1000.0)
    measured = np.minimum(idle + scale * dynamic, limit)
    found = fit(dynamic, measured, limit_w=limit)
    # 2 %: the refined grid's step is 1.25 W and 0.0025.
    assert np.minimum(found[0] + found[1] * dynamic, limit) == pytest.approx(measured, rel=0.02)


def test_power_of_the_published_rows():
    """A regression guard: 21.5 % when this was written, held out 21.6 %, the median power alone 31.8 %."""
    rows, _ = attention_rows(read_measured(PUBLISHED / "serving_attention.csv"))
    rows = rows[rows["power_w"].notna()]
    assert sum(len(watts) for _, watts in powered_parts(rows)) == 603
    (note,) = power_note(rows)
    error, held_out, constant = (float(number) for number in re.findall(r"(\d+\.\d)%", note))
    assert error <= 23
    assert held_out <= 23
    assert held_out < 0.75 * constant


def test_no_power_no_note():
    rows, _ = attention_rows(read_measured(PUBLISHED / "gpu_measured.csv"))
    assert power_note(rows) == []
