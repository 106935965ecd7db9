"""What is known of many keys at once: against blocks of a precision matrix; likes nearer than others; own entries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.gpu.calibration import NOTHING_KNOWN, NUMBERS, Key, shipped
from simulator.gpu.likeness import correlation, differences, joint, likenesses, shared

FA3 = Key("h200", "sm_90", "flash_attention_3_paged", "sglang-0.5.14:fa3", 128, "bf16", "bf16")
KEYS = [FA3, replace(FA3, head_dim=64), replace(FA3, dtype="fp8", kv_dtype="fp8", products="fp8")]
FORWARD = [e for e in shipped() if e.key.direction == "fwd"]


def test_the_condition_on_entries_is_that_of_the_precision_matrix():
    found = joint(KEYS, without_device=True)
    entries = [e for e in FORWARD if e.key.device != "h200"]
    every = [*KEYS, *(e.key for e in entries)]
    n = len(KEYS)
    for c, (name, each) in enumerate(zip(NUMBERS, likenesses(), strict=True)):
        logs = np.log([getattr(e.efficiency, name) for e in entries])
        middle = np.median(logs)
        # The other way to condition a normal vector: blocks of the inverse of its whole covariance.
        unsure = [*[0.0] * n, *(e.unsure[c] ** 2 for e in entries)]
        whole = (
            shared(each, differences(every, every)) + 4.0 + each.own * np.eye(len(every)) + np.diag(unsure)
        )
        precision = np.linalg.inv(whole)
        covariance = np.linalg.inv(precision[:n, :n])
        mean = middle - covariance @ precision[:n, n:] @ (logs - middle)
        assert np.allclose(found.mean[:, c], mean, atol=1e-5)
        assert np.allclose(found.covariance[c], covariance, atol=1e-5)


def test_covariances_are_those_of_something():
    for each in joint(KEYS).covariance:
        assert np.allclose(each, each.T, atol=1e-9)
        assert np.linalg.eigvalsh(each).min() > 0


def test_the_entries_of_a_device_move_its_mean_and_not_how_far_it_may_be_off():
    own = next(e for e in FORWARD if e.key.device == "h100" and e.key.implementation == FA3.implementation)
    keys = [own.key]
    seen, unseen = joint(keys), joint(keys, without_device=True)
    true = np.log([getattr(own.efficiency, n) for n in NUMBERS])
    spread = np.sqrt(unseen.covariance[:, 0, 0])
    assert (np.abs(seen.mean[0] - true) / spread).max() < 1
    assert (np.abs(seen.mean[0] - true) / spread).mean() < (np.abs(unseen.mean[0] - true) / spread).mean()
    assert np.array_equal(seen.covariance, unseen.covariance)


def test_without_entries_the_general_guess_is_left():
    found = joint(KEYS, table=())
    values, spreads = np.array(NOTHING_KNOWN).T
    assert np.allclose(np.exp(found.mean), values)
    assert np.allclose(np.sqrt(found.covariance[:, 0, 0]), spreads)


def test_likes_are_nearer_and_devices_apart():
    other = replace(FA3, implementation="vllm-0.24.0:vllm_triton_attn", mapping="vllm_triton", head_dim=512)
    found = correlation([FA3, KEYS[1], other, replace(FA3, device="b200"), replace(FA3, direction="bwd")])
    assert (found[:, 0, 1] > found[:, 0, 2]).all()
    assert (found[:, 0, 2] > 0).all()
    assert (found[:, 0, 3:] == 0).all()
    assert found[:, range(5), range(5)] == pytest.approx(1.0)
