"""Written kernels at the corners of the language: arithmetic that Triton does otherwise, absent elements."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from written_files import run, written_file

from einsum_cascade import CascadeError, evaluate, parse, zoo
from einsum_cascade.errors import KernelError
from einsum_cascade.evaluator import random_inputs
from kernels import written
from kernels.written import check_written
from simulator.gpu.writing.program import write_program
from simulator.gpu.writing.terms import CannotWriteError

TOLERANCE = 1e-5
HEAD = """cascade corner
rank   N C
input  X[C, N]  Z[N]
output Y[C, N]
Y[c, n] = """
STATE = """cascade corner
rank   T D
input  X[D, T]
output Y[D]
S[0, d] = X[d, 2]
iterate t {{
  S[t + 1, d] = 0.5 * S[t, d] + X[d, t]
}}
Y[d] = {}
"""


def found_and_expected(text: str, sizes: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the output of a text as its kernels compute it and as the evaluator does, of numbers of either sign."""
    cascade = parse(text)
    file = written_file(folder, cascade, sizes, dtype="fp32")
    rng = np.random.default_rng(5)
    inputs = {
        s.tensor: rng.standard_normal(file.tensors[s.tensor][0]).astype(np.float32) for s in cascade.inputs
    }
    (name,) = (s.tensor for s in cascade.outputs)
    return run(file, inputs)[name], np.asarray(evaluate(cascade, sizes, inputs)[name])


@pytest.mark.parametrize(
    "value",
    [
        "X[c, n] ** 5 + X[c, n] ** 0 + X[c, n] ** 10",
        "abs(X[c, n]) ** 0.5 + 2 ** X[c, n] + 0.9 ** n",
        "X[c, n] * (-1) ** n + (-2) ** (n % 3)",
        "X[c, n] ** (n % 4)",
        "X[c, n] ** floor(2 * Z[n]) where abs(X[c, n]) > 0.1",
        "X[c, n] * n ** 0 + n ** 2.5 * 0.001 + 0 ** n",
        "((n - 20) ** 3 + X[c, n]) ** -2",
        "X[c, n] + 3 ** n * 1e-20",
        "X[c, n] + n * 100000000",
        "X[c, n] + (n * n * n * n * n * n * n) % 7",
        "X[c, n] where n * n * n * n * n * n * n * n > 5",
        "tanh(0.0001 * X[c, n])",
        "tanh(X[c, n]) - tanh(20 * X[c, n])",
        "softplus(X[c, n] - 7)",
        "softplus(X[c, n] - 30)",
        "softplus(9 * X[c, n])",
        "pad(X[c, n - 5], X[c, n + 3])",
        "X[c, n] + pad(X[c, n - 30], X[c, n + 30])",
        "pad(X[c, n - 5], select(n < 2, X[c, n + 48], X[c, n + 3]))",
    ],
)
def test_arithmetic_is_that_of_the_language(value: str, tmp_path: Path) -> None:
    found, expected = found_and_expected(HEAD + value + "\n", "N=50,C=3", tmp_path)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_an_index_is_a_whole_power(tmp_path: Path) -> None:
    text = "cascade corner\nrank N C T\ninput X[C, N]\noutput Y[C, T]\nY[c, t] = X[c, 3 ** t + t ** 2]\n"
    found, expected = found_and_expected(text, "N=300,C=3,T=6", tmp_path)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "value", ["S[4, d] + S[T, d]", "S[0, d] * 2 + S[T, d]", "S[T - 1, d]", "S[t, d] :: max(t)"]
)
def test_generations_of_a_state_that_are_read_afterwards(value: str, tmp_path: Path) -> None:
    found, expected = found_and_expected(STATE.format(value), "T=9,D=20", tmp_path)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_what_is_padded_may_be_looked_up_by_an_index_that_does_not_exist(tmp_path: Path) -> None:
    text = """cascade corner
rank   N C
input  X[C, N]
output B[N]
A[n] = X[c, n] :: argmax(c) where c + 5 < n
B[n] = pad(X[A[n], n], 4)
"""
    found, expected = found_and_expected(text, "N=20,C=33", tmp_path)
    assert found[:6].tolist() == [4.0] * 6
    assert np.array_equal(found, expected)


def test_a_text_that_only_selects_is_checked(tmp_path: Path) -> None:
    text = "cascade corner\nrank N C\ninput X[C, N]\noutput A[N]\nA[n] = X[c, n] :: argmax(c)\n"
    for dtype in ("fp32", "fp16"):
        file = written_file(tmp_path, parse(text), "N=20,C=33", dtype=dtype)
        assert file.word == dtype
        assert check_written(file).ok


CHOOSING = """cascade choosing
rank   E M P
input  Q[E, P]  K[E, M]  V[E, M]
output O[E, P]
S[m, p] = Q[e, p] * K[e, m]
J[p]    = S[m, p] :: argmax(m)
O[e, p] = V[e, J[p]]
"""


def test_a_sum_in_steps_of_which_the_result_has_an_axis_that_no_term_has(tmp_path: Path) -> None:
    """Triton found rows where columns belong: what was added to the sum so far had lost its place in it."""
    text = """cascade corner
rank   I J K T
input  X[J]
output Y[T, J, K, I]  Z[K]
R[0, k] = 1
iterate t {
  Y[t, j, k, i] = R[t, k] * X[j]
  S[t, k, i]    = (Y[t, j, k, i] + R[t, clamp(k - 2, 0, K - 1)]) :: sum(j)
  R[t + 1, k]   = max(R[t, k], S[t, k, I // 2])
}
Z[k] = R[T, k]
"""
    sizes = {"I": 7, "J": 100, "K": 16, "T": 3}
    cascade, inputs = parse(text), {"X": np.linspace(-0.1, 0.3, 100, dtype=np.float32)}
    found = run(written_file(tmp_path, cascade, sizes, dtype="fp32"), inputs)
    for tensor, value in evaluate(cascade, sizes, inputs).items():
        assert np.abs(found[tensor] - value).max() <= TOLERANCE * np.abs(value).max()


@pytest.mark.parametrize("implementation", ["fused", "eager"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_selection_is_made_among_scores_that_nobody_rounded(
    dtype: str, implementation: str, tmp_path: Path
) -> None:
    """Scores between two kernels were rounded to 8 bits, and queries chose other keys than they ought."""
    file = written_file(
        tmp_path, parse(CHOOSING), "E=20,M=50,P=31", dtype=dtype, implementation=implementation
    )
    types = {"Q": f"*{dtype}", "S": "*fp32", "J": "*i32", "O": f"*{dtype}"}
    between = {"S", "J"} if implementation == "eager" else set()
    assert {t for t in types if t in file.tensors} == {"Q", "O"} | between
    assert all(file.pointer(t) == types[t] for t in ("Q", "O", *between))
    outcome = check_written(file)
    assert outcome.error == 0.0, "what is chosen is copied, so that nothing but the choice can differ"


def test_scores_that_are_chosen_from_and_multiplied_are_rounded_for_the_product_alone(tmp_path: Path) -> None:
    text = CHOOSING.replace("output O[E, P]", "output O[E, P]  W[E, P]") + "W[e, p] = V[e, m] * S[m, p]\n"
    file = written_file(tmp_path, parse(text), "E=20,M=50,P=31", dtype="bf16", implementation="eager")
    assert file.pointer("S") == "*fp32"
    assert check_written(file).ok
    assert all(made.registers for made in written.compile_written(file, "sm_90"))


def test_kernels_are_launched_on_the_device_of_their_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton launches on the current device: the tensors of another GPU would be read through its addresses."""
    file = written_file(tmp_path, parse(CHOOSING), "E=20,M=50,P=31", dtype="fp32", implementation="eager")
    current: list[Any] = []

    class DeviceOf:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def __enter__(self) -> None:
            current.append(self.tensor.device)

        def __exit__(self, *_: Any) -> None:
            current.append(None)

    launched: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *tensors, **_: launched.append((current[-1], tensors[0].device))

    monkeypatch.setattr("torch.cuda.device_of", DeviceOf)
    monkeypatch.setattr(file.module, "LAUNCHES", [(Kernel(), *rest) for _, *rest in file.module.LAUNCHES])
    file.run(*(torch.zeros(shape, device="meta") for shape in ((20, 31), (20, 50), (20, 50))))
    assert launched == [(torch.device("meta"), torch.device("meta"))] * 3


@pytest.mark.parametrize(("cache", "copies"), [(0, 1), (100_000, None), (2**30, 24)])
def test_what_is_timed_does_not_find_its_own_in_a_cache(
    cache: int, copies: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a copy hold an index that no kernel has written: a gather would read beside its tensor."""
    monkeypatch.setattr(written, "cache_bytes", lambda device: cache)
    monkeypatch.setattr(written, "MOST_COPIES", 24)  # each is computed in the interpreter
    file = written_file(tmp_path, parse(CHOOSING), "E=20,M=50,P=31", dtype="bf16", implementation="eager")
    launched: dict[str, list[dict[str, Any]]] = {}
    plain = file.module.launch

    def launch(step: Any, tensors: Any) -> None:
        launched.setdefault(step[0].__name__, []).append(tensors)
        if "J" not in step[1][-1:] and "J" in step[1]:
            assert 0 <= int(tensors["J"].min()) <= int(tensors["J"].max()) < 50
        plain(step, tensors)

    file.module.launch = launch
    with written.runnable(file):
        written.time_written(file, clock=lambda call: (call(), 1.0)[1], device="cpu", budget_s=0.0)
    for turns in launched.values():
        each = {t["O"].data_ptr(): t for t in turns[1:]}
        whole = sum(x.numel() * x.element_size() for t in each.values() for x in t.values())
        assert len(each) == copies or (copies is None and 2 * cache <= whole < 3 * cache)
        timed = [t["O"].data_ptr() for t in turns[-3:]]
        assert len(set(timed)) == min(3, len(each)), "one after the other"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tl.store(C_ptr", "tl.store(nothing + C_ptr", r":{line}: NameError: name 'nothing' is not defined"),
        ("tl.dot(", "tl.doot(", r":{line}: AttributeError: .* 'doot'"),
        ("    tl.store(C", "    x = tl.arange(0, 3)\n    tl.store(C", r":{line}: ValueError: .*power of 2"),
        ('return tensors["C"]', 'return tensors["D"]', r":{line}: KeyError: 'D'"),
        ("LAUNCHES = [", "LAUNCHES = [3,", "TypeError: cannot unpack"),
        ('    "C": ', '    "CC": ', r"LAUNCHES: expected a kernel, tensors of TENSORS"),
        ("BATCH = 1", 'BATCH = "x"', "ValueError: invalid literal"),
    ],
)
def test_a_mistake_in_a_file_that_was_changed_is_one_line_with_its_place(
    old: str, new: str, words: str, tmp_path: Path
) -> None:
    """A file says of itself that it may be changed as you like."""
    from typer.testing import CliRunner

    from validation.cli import app

    path = tmp_path / "mine.py"
    text = write_program(zoo.load("gemm"), "M=32,N=32,K=32", dtype="fp32").text
    line = text[: text.index(old)].count("\n") + 1
    path.write_text(text.replace(old, new))
    ran = CliRunner().invoke(app, ["kernels", "check", str(path)])
    assert ran.exit_code == 2
    assert re.match(re.escape(str(path)) + ".*" + words.replace("{line}", str(line)), ran.stderr.strip())
    assert "\n" not in ran.stderr.strip()


def test_what_a_gpu_refuses_of_a_file_is_one_line_too(tmp_path: Path) -> None:
    from triton.runtime.errors import OutOfResources

    file = written_file(tmp_path, zoo.load("gemm"), "M=32,N=32,K=32", dtype="fp32")

    def refuses(*_: Any, **__: Any) -> None:
        raise OutOfResources(300_000, 232_448, "shared memory")

    file.module.launch = refuses
    with pytest.raises(KernelError, match=r"gemm\.py:\d+: OutOfResources: .*shared memory"):
        check_written(file)


def test_what_a_text_returns_keeps_its_type_and_near_ties_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = CHOOSING.replace("output O[E, P]", "output O[E, P]  S[M, P]")
    for dtype in ("bf16", "fp32"):
        file = written_file(tmp_path, parse(text), "E=20,M=50,P=31", dtype=dtype, implementation="eager")
        assert file.pointer("S") == f"*{dtype}"
        assert check_written(file).ok == (dtype == "fp32")
        assert ("chooses by values" in capsys.readouterr().err) == (dtype != "fp32")


def test_what_is_not_a_number_by_the_text_is_right_as_that(tmp_path: Path) -> None:
    """A query that sees no key has a softmax of 0 / 0, in the evaluator as in the kernel."""
    text = """cascade corner
rank   E M P
input  Q[E, P]  K[E, M]
output A[M, P]
QK[m, p] = Q[e, p] * K[e, m] where m <= p - 3
SN[m, p] = exp(QK[m, p])
SD[p]    = SN[m, p] :: sum(m)
ON[p]    = SD[p] / SD[p]
A[m, p]  = SN[m, p] * ON[p]
"""
    text = text.replace("output A[M, P]", "output ON[P]").replace("A[m, p]  = SN[m, p] * ON[p]\n", "")
    file = written_file(tmp_path, parse(text), "E=16,M=20,P=20", dtype="fp32")
    assert check_written(file).ok


MOVED = """cascade corner
rank   T D K
rank   E = D
input  X[D, E]  W[K]
output Y[D, E]
S[0, d, e] = X[d, e]
iterate t {{
  S[t + 1, d, e] = {}
}}
Y[d, e] = S[T, d, e]
"""


@pytest.mark.parametrize(
    "value",
    [
        "0.5 * S[t, (d + 1) % D, e]",
        "0.2 * (S[t, d, e] + pad(S[t, d - 1, e], 0) + pad(S[t, d + 1, e], 0) + pad(S[t, d, e - 1], 1))",
        "0.5 * (S[t, d, e] + pad(S[t, d - 1, e - 2], 0.5))",
        "W[k] * pad(S[t, d + k - 1, e], 0)",
        "S[t, d, e] + pad(S[t, d - 2 ** t, e], 0)",
        "0.5 * S[t, (3 * t) % D, e] + S[t, (2 * e) % D, e]",
        "0.5 * S[t, e, (d + 1) % D] + 0.5 * S[t, (d + e) % D, e]",
    ],
)
def test_a_state_is_read_at_another_place(value: str, tmp_path: Path) -> None:
    found, expected = found_and_expected(MOVED.format(value), "T=4,D=13,K=3", tmp_path)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_what_is_too_large_to_be_evaluated_is_timed_and_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's own example at 8K keys, 32 heads and 4 sequences needs more than the evaluator's limit."""
    path = tmp_path / "gemm.py"
    path.write_text(write_program(zoo.load("gemm"), "M=16,N=24,K=16,B=2", dtype="fp32").text)
    monkeypatch.setattr(written, "_room_bytes", lambda: 1000)
    file = written.load_written(path)

    def clock(call: Any) -> float:
        call()
        return 1e-6

    with written.runnable(file):
        (found,) = written.time_written(file, clock=clock, device="cpu", budget_s=0.0)
    assert found.measured.median == 1.0
    assert "too large to be evaluated in float64" in capsys.readouterr().err
    path.write_text(path.read_text().replace("    tl.store(", "    if pid > 0:\n        tl.store("))
    file = written.load_written(path)
    with written.runnable(file), pytest.raises(KernelError, match="C holds what is no number; not timed"):
        written.time_written(file, clock=clock, device="cpu", budget_s=0.0)


def test_a_text_of_more_than_two_gibibytes_gets_inputs() -> None:
    """Two tensors of 2 GiB each in float64 lie between its input and its output."""
    text = "cascade large\nrank N M\ninput X[N]\noutput Z[]\nA[n, m] = X[n] * m\nB[n, m] = A[n, m] + 1\n"
    cascade = parse(text + "Z[] = A[n, m] * B[n, m] :: sum(n, m)\n")
    with pytest.raises(CascadeError, match="would take"):
        random_inputs(cascade, "N=16K,M=16K")
    assert random_inputs(cascade, "N=16K,M=16K", limit_bytes=2**40)["X"].shape == (2**14,)


def test_a_softmax_over_a_vocabulary_spills_no_registers(tmp_path: Path) -> None:
    """With four warps a thread had 256 of 32K logits before it, and 496 bytes of them in memory."""
    text = "cascade tokens\nrank V N\ninput X[V, N]\noutput Y[V, N]\nL[n] = X[v, n] :: logsumexp(v)\n"
    file = written_file(tmp_path, parse(text + "Y[v, n] = X[v, n] - L[n]\n"), "V=32000,N=4096")
    (found,) = written.compile_written(file, "sm_90")
    assert not found.spills


def test_tensors_named_as_ranks_are_told_from_their_sizes(tmp_path: Path) -> None:
    text = """cascade corner
rank   N C J
input  X[C, N]  N[N]
output Y[C, J]
J[c, j] = X[c, n] :: topk(n -> j)
Y[c, j] = X[c, J[c, j]] * C + N[J[c, j]] + J - N
"""
    found, expected = found_and_expected(text, "N=9,C=3,J=2", tmp_path)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def test_a_sum_and_a_maximum_over_what_a_block_walks_along_are_asked_for_apart(tmp_path: Path) -> None:
    """As one Einsum there is no form for it; as two, which the message asks for, there is."""
    head = "cascade corner\nrank I J K\ninput A[I, K]  B[I, J]\noutput Y[K]\n"
    one = "Y[k] = tanh(A[i, k] * B[i, j]) :: sum(i) :: max(j)\n"
    two = "S[j, k] = tanh(A[i, k] * B[i, j]) :: sum(i)\nY[k] = S[j, k] :: max(j)\n"
    sizes = "I=130,J=150,K=20"
    with pytest.raises(CannotWriteError, match=r"Y: a second reduction .* write two Einsums"):
        write_program(parse(head + one), sizes, dtype="fp32")
    found, expected = found_and_expected(head + two, sizes, tmp_path)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
