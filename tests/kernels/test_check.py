"""Every kernel agrees with its float64 reference in the interpreter, and the check itself can fail."""

from __future__ import annotations

import pytest
import torch

from einsum_cascade.errors import KernelError
from kernels import backward, check, registry

CASES = [(e.name, case) for e in registry.entries() for case in registry.load(e.cases)()]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}-{c.label}" for n, c in CASES])
def test_kernel_matches_float64(name, case):
    outcome = check.run_case(registry.find(name), case)
    assert outcome.ok, outcome


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}-{c.label}" for n, c in CASES])
def test_compiled_kernel_matches_float64(name, case):
    outcome = check.run_case(registry.find(name), case, device="cuda")
    assert outcome.ok, outcome


def test_a_point_that_is_never_written_is_seen():
    expected = torch.ones(4, dtype=torch.float64)
    got = check.poisoned((4,), dtype=torch.float32)
    got[:3] = 1.0
    assert check.relative_error(got, expected) == float("inf")


def test_an_infinity_must_stand_where_it_is_expected():
    expected = torch.tensor([1.0, float("-inf")], dtype=torch.float64)
    assert check.relative_error(torch.tensor([1.0, float("-inf")]), expected) == 0.0
    assert check.relative_error(torch.tensor([float("-inf"), 1.0]), expected) == float("inf")


def test_a_wrong_result_is_reported():
    outcome = check.Outcome("k", "c", error=0.1, limit=0.01, worst="O", how="interpreted")
    assert not outcome.ok


def test_a_check_that_does_not_run_has_failed_and_the_others_follow(monkeypatch):
    plain, calls = check.run_case, []

    def run_case(entry, case, **rest):
        calls.append(case)
        if len(calls) == 1:
            raise RuntimeError("out of\nmemory")
        return plain(entry, case, **rest)

    monkeypatch.setattr(check, "run_case", run_case)
    first, *others = check.run(["merge_attention"], device="cpu")
    assert not first.ok
    assert first.worst == "did not run: out of memory"
    assert others
    assert all(o.ok for o in others)


def test_a_wrong_gradient_of_what_is_learnt_is_told_by_its_name(monkeypatch):
    entry = registry.find("flash_attention_gradients")
    case = next(c for c in registry.load(entry.cases)() if c.extras == ("grad", "sink"))
    found = backward.learnt_gradients
    monkeypatch.setattr(
        backward, "learnt_gradients", lambda *args, **rest: [1.01 * t for t in found(*args, **rest)]
    )
    outcome = check.run_case(entry, case)
    assert not outcome.ok
    assert outcome.worst == "DSINK"


def test_a_wrong_shape_is_refused():
    with pytest.raises(KernelError, match="shape"):
        check.relative_error(torch.ones(3), torch.ones(4, dtype=torch.float64))


def test_unknown_kernel_names_the_nearest():
    with pytest.raises(KernelError, match="flash_attention"):
        check.run(["flash_atention"], device="cpu")


def test_every_entry_names_parts_that_exist():
    for entry in registry.entries():
        for place in filter(None, (entry.launcher, entry.reference, entry.inputs, entry.cases, entry.build)):
            assert callable(registry.load(place)), place
