"""The fit of likeness: the density of a device's entries given the others', and the shipped table as fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from simulator.gpu.calibration import NUMBERS, shipped
from simulator.gpu.likeness import covariance, differences, identical, likenesses
from validation.gpu_likeness import fit, surprise

FORWARD = [e for e in shipped() if e.key.direction == "fwd"]


def test_the_surprise_is_that_of_each_device_given_the_others():
    few = FORWARD[::6]
    keys = [e.key for e in few]
    logs, unsure = np.log([e.efficiency.launch_s for e in few]), np.array([e.unsure[1] for e in few])
    each, apart = likenesses()[1], (differences(keys, keys), identical(keys, keys))
    whole = covariance(each, *apart) + 4.0 + np.diag(unsure**2)
    devices = np.array([k.device for k in keys])
    expected, middle = 0.0, np.median(logs)
    for device in set(devices):
        here, there = devices == device, devices != device
        gain = whole[np.ix_(here, there)] @ np.linalg.inv(whole[np.ix_(there, there)])
        mean = middle + gain @ (logs[there] - middle)
        spread = whole[np.ix_(here, here)] - gain @ whole[np.ix_(there, here)]
        expected -= multivariate_normal(mean, spread).logpdf(logs[here])
    found = surprise(each, logs, unsure, apart, devices)
    constant = 0.5 * len(few) * np.log(2 * np.pi)
    assert found + constant == pytest.approx(expected, rel=1e-6)


def test_the_shipped_table_is_the_least_surprised_nearby():
    found = fit(FORWARD)
    for name, here, there in zip(NUMBERS, found, likenesses(), strict=True):
        # 2 %: the table holds three digits, and the search stops where the cost is flat.
        assert there.per_word == pytest.approx(here.per_word, rel=0.02), name
        assert there.variance == pytest.approx(here.variance, rel=0.02), name
    keys = [e.key for e in FORWARD]
    devices = np.array([k.device for k in keys])
    apart = differences(keys, keys), identical(keys, keys)
    logs, unsure = np.log([e.efficiency.scalar for e in FORWARD]), np.array([e.unsure[0] for e in FORWARD])
    least = surprise(found[0], logs, unsure, apart, devices)
    for worse in (
        replace(found[0], variance=found[0].variance * 4),
        replace(found[0], own=found[0].own * 20),
    ):
        assert surprise(worse, logs, unsure, apart, devices) > least
