"""Values and files that mean nothing are refused at the door, with their place; a search by machine found these."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

import einsum_cascade as ec
import mappings
import simulator as sim
from einsum_cascade.errors import DataError, MappingError, ModelError
from validation.cli import app

SIZES = ["--sizes", "E=8,F=8,P=16,M=16"]
SPATIAL = ["simulate", "attention_1pass", "--sizes", "BERT/1K"]
CALL = ["--set", "batch=4,heads=32,seq_q=1024,seq_kv=1024,head_dim=128,causal=1"]
PREDICT = ["predict", "flash_attention", *CALL]


def refused(*args: str) -> str:
    """Run a command that must be refused in one line and return it."""
    ran = CliRunner().invoke(app, list(args))
    assert ran.exit_code == 2, (ran.exit_code, ran.output, ran.exception)
    message = ran.stderr.strip()
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("args", "said"),  # the option, and what stands in the place of its value
    [
        (["reduce", "attention_3pass", "--rank", "M", "--out", "--json"], ("--out", "--json")),
        (["passes", "attention_3pass", "--rank", "--json"], ("--rank", "--json")),
        (["evaluate", "attention_3pass", *SIZES, "--out", "--seed", "3"], ("--out", "--seed")),
        (["kernels", "tune", "--on", "--json"], ("--on", "--json")),
    ],
)  # fmt: skip
def test_an_option_without_its_value_does_not_take_the_next_option(
    args: list[str], said: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, args)
    assert ran.exit_code == 2
    message = f"{said[0]}: expected a value, found the option {said[1]}"
    assert ran.stderr.strip() == message
    if "--json" in args:
        assert json.loads(ran.stdout) == {"ok": False, "error": message}
    assert not list(tmp_path.iterdir())


def test_a_flag_may_stand_before_any_option_and_a_value_may_begin_with_a_dash(tmp_path: Path) -> None:
    out = tmp_path / "-x.svg"
    ran = CliRunner().invoke(app, ["show", "attention_3pass", "--latex", "--graph", str(out), "--json"])
    assert ran.exit_code == 0 and out.exists()
    assert "expected a whole number" in refused(
        "gna", "--layout", "-x", "--window", "4", "--q-tile", "4", "--kv-tile", "4"
    )


def test_numbers_that_no_search_and_no_compiler_takes() -> None:
    huge = "9" * 26
    args = ["map", "attention_1pass", "--on", "fusemax", *SIZES, "--effort", huge]
    assert refused(*args) == f"effort: expected a whole number of at most 2^48, found {huge}"
    for stages in ("0", "-1", huge):
        probed = refused("kernels", "probe", "none.py:kernel", "--target", "sm_90", "--stages", stages)
        assert probed == f"stages={stages}: expected a depth of 1 to 1024 steps"
    gna = ["gna-tune", "--layout", "16,16", "--window", "8,8", "--on", "h100"]
    for name in ("heads", "batch"):
        assert "heads in all, expected at most 2^31" in refused(*gna, f"--{name}", huge)


@pytest.mark.parametrize("heads", [float("nan"), 1.5, "4", None, True])
def test_heads_in_python_are_a_whole_number(heads: object) -> None:
    with pytest.raises(MappingError, match=r"^heads: found .*, expected a whole number"):
        sim.predict_gna(layout=64, window=16, q_tile=16, kv_tile=16, on="h100", heads=heads)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, "", False])
def test_a_length_of_a_sweep_that_is_nothing_is_not_the_length_of_the_model(length: object) -> None:
    space = sim.Space({"sizes.seq": [length]})
    with pytest.raises((DataError, ec.CascadeError), match="length"):
        sim.sweep(space, cascade="attention_1pass", hardware="fusemax", mapping="fusemax", sizes="BERT/1K")


def changed(package: str, name: str, folder: Path, change: Callable[[list], None]) -> str:
    """Write a shipped description with a change to its documents; JSON is YAML."""
    yaml = YAML(typ="safe", pure=True)
    documents = list(yaml.load_all(resources.files(package).joinpath(name).read_text(encoding="utf-8")))
    change(documents)
    text = "\n---\n".join(json.dumps(d) for d in documents)
    path = folder / "mine.yaml"
    path.write_text(text.replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf"))
    return str(path)


def setting(*path: object, to: object) -> Callable[[list], None]:
    def change(documents: list) -> None:
        node = documents
        for step in path[:-1]:
            node = node[step]  # type: ignore[call-overload]
        node[path[-1]] = to  # type: ignore[call-overload]

    return change


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("hot_clock", float("nan"), "hot_clock: expected a positive number, found nan"),
        ("exp_per_cycle", float("inf"), "exp_per_cycle: expected a positive number, found inf"),
        ("l2_bandwidth", float("inf"), "l2_bandwidth: expected a positive number, found inf"),
        ("fma_per_cycle", 1e308, "fma_per_cycle: expected a number between 1e-30 and 1e+30, found 1e+308"),
        ("clock", "1e-300 MHz", "clock: expected a number between"),
        ("sms", 10**30, "sms: expected a whole number of at most 2^48"),
        ("assumed", ["l2_bandwith"], "assumed: no number 'l2_bandwith' here; did you mean 'l2_bandwidth'?"),
        ("memory_kind", "hbm9", "memory_kind: no energy of 'hbm9' is known; did you mean 'hbm3'?"),
    ],
)
def test_a_gpu_whose_numbers_are_none(field: str, value: object, said: str, tmp_path: Path) -> None:
    path = changed("simulator", "hardware/library/gpu/h100.yaml", tmp_path, setting(0, field, to=value))
    assert said in refused(*PREDICT, "--on", path)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("PE1D", "ops", "add"), {}, "arrays.PE1D: ops: add: expected the units that it occupies"),
        (("PE2D", "shape"), [10**30, 64], "arrays.PE2D.shape.0: expected a whole number of at most 2^48"),
        (
            ("PE2D", "assumed"),
            ["sine"],
            "arrays.PE2D: assumed: no operation 'sine' in ops; did you mean 'sin'?",
        ),
    ],
)
def test_an_array_that_does_nothing_for_an_operation(
    path: tuple[str, ...], value: object, said: str, tmp_path: Path
) -> None:
    chip = changed(
        "simulator", "hardware/library/fusemax.yaml", tmp_path, setting(0, "arrays", *path, to=value)
    )
    assert said in refused(*SPATIAL, "--on", chip)


def test_an_unknown_component_is_not_told_to_lack_a_capacity(tmp_path: Path) -> None:
    wrong = setting(0, "memories", "DRAM", "component", to="dramm")
    chip = changed("simulator", "hardware/library/fusemax.yaml", tmp_path, wrong)
    assert "memories.DRAM: unknown component 'dramm'; did you mean 'dram'?" in refused(*SPATIAL, "--on", chip)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("mask_factor",), float("nan"), "mask_factor: expected a finite number of at least 0, found nan"),
        (("tiles", 0, "stages"), True, "tiles.0.stages: expected a number, found True"),
        (("per_score",), {"exp": True}, "per_score.exp: expected a number, found True"),
        (("tiles", 0, "head_dim"), -1, "tiles.0.head_dim: expected a finite number of at least 0, found -1"),
    ],
)
def test_a_kernel_whose_numbers_are_none(
    path: tuple[object, ...], value: object, said: str, tmp_path: Path
) -> None:
    mapping = changed("mappings", "library/gpu/triton_attention.yaml", tmp_path, setting(0, *path, to=value))
    assert refused(*PREDICT, "--on", "h100", "--mapping", mapping).endswith(said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            ("GlobalBuffer", "RM", 0),
            None,
            "keep.GlobalBuffer.RM.0: input should be a valid string, found None",
        ),
        (("GlobalBuffer", "RM"), "RM", "keep.GlobalBuffer.RM: expected a list such as [P, M], found 'RM'"),
        (("DRAM", 1), [1], "keep.DRAM.1: input should be a valid string, found [1]"),
        (
            ("RF2D",),
            1.5,
            "keep.RF2D: expected a word or a list such as [P, M] or 'name: value' pairs, found 1.5",
        ),
    ],
)
def test_a_memory_that_keeps_what_is_no_tensor(
    path: tuple[object, ...], value: object, said: str, tmp_path: Path
) -> None:
    mapping = changed("mappings", "library/fusemax.yaml", tmp_path, setting(1, "keep", *path, to=value))
    assert refused(*SPATIAL, "--on", "fusemax", "--mapping", mapping).endswith(said)


@pytest.mark.parametrize("field", ["tensor", "fma", "trips"])
def test_work_that_is_an_empty_text(field: str, tmp_path: Path) -> None:
    empty = setting(0, "grids", 0, "step", field, to="")
    mapping = changed("mappings", "library/gpu/linear_attention.yaml", tmp_path, empty)
    call = ["--set", "batch=4,heads=32,seq_q=8192,head_dim=64,dtype=bf16", "--mapping", mapping]
    message = refused("predict", "linear_attention", "--on", "h100", *call)
    assert message.endswith(f"grids.0.step: {field}: expected a number or an expression, found an empty text")


HEAD = "cascade mine\nrank J\ninput A[J]  B[J]\noutput O[J]\n"


@pytest.mark.parametrize(
    ("line", "column", "op"),
    [
        ("O[j] = A[j // 0]", 15, "//"),
        ("O[j] = A[j % 0]", 14, "%"),
        ("O[j] = A[j] where j % 0 == 0", 23, "%"),
    ],
)
def test_a_division_of_whole_numbers_by_zero(line: str, column: int, op: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.cascade"
    path.write_text(HEAD + line + "\n")
    ran = CliRunner().invoke(app, ["check", str(path)])
    assert ran.exit_code == 2
    assert ran.stderr.startswith(
        f"{path}:5:{column}: '{op}' divides by zero here, at every point\n  {line}\n"
    )


def test_a_mistake_that_the_data_show_is_told_with_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.cascade"
    path.write_text(f"{HEAD}O[j] = A[j % (J - 4)]\n")
    ran = CliRunner().invoke(app, ["evaluate", str(path), "--sizes", "J=4", "--out", str(tmp_path / "o.npz")])
    assert ran.exit_code == 2
    assert ran.stderr.startswith(f"{path}:5:")
    assert "\n  O[j] = A[j % (J - 4)]\n" in ran.stderr


ROW = "mine,H100 SXM,flash_attention,triton,fwd,bf16,{batch},32,1024,1024,128,1,,0.2,"
COLUMNS = (
    "source,device,kernel,implementation,direction,dtype,batch,heads,"
    "seq_q,seq_kv,head_dim,causal,extra,latency_ms,tflops"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{COLUMNS}\n{ROW.format(batch=4)}\n{'x' * 200_000}\n", "not a table of values between commas: field larger"),
        (f"{COLUMNS}\r{ROW.format(batch=4)}\r", "not a table of values between commas: new-line character"),
        (f"{COLUMNS}\n{ROW.format(batch='')}\n", "line 2: batch: expected a number, found nothing"),
    ],
    ids=["long", "returns", "empty"],
)  # fmt: skip
def test_a_measured_table_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode())
    assert f"{path}: {said}" in refused("validate", "gpu", "--measured", str(path))


def test_a_predicate_without_a_value_is_not_warned_of_by_python(recwarn: pytest.WarningsRecorder) -> None:
    for where in ("j % (J - 4) < 1", "j // (J - 4) < 1", "inf % 2 == 0", "log(0) < j"):
        ec.bounds(ec.parse(f"{HEAD}O[j] = A[j] where {where}\n"), {"J": 4})
    assert not [str(w.message) for w in recwarn if issubclass(w.category, RuntimeWarning)]


FLASH = ec.zoo.load("attention_1pass")
TABLE = {"E": 8, "F": 8, "P": 16, "M": 16}


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({**TABLE, "E": 0}, "E=0: a size is a whole number"),
        ({**TABLE, "E": 8.5}, "E=8.5: a size is a whole number"),
        ({**TABLE, "E": True}, "E=True: a size is a whole number"),
        ({**TABLE, "E": float("nan")}, "E=nan: a size is a whole number"),
        ({**TABLE, "E": "8"}, "E='8': a size is a whole number"),
        ({**TABLE, "E": np.array([8, 0])}, "a size is a whole number"),
        ({**TABLE, "X": 3}, "attention_1pass has no rank X"),
        (None, "sizes: expected a text such as"),
        ([8, 8], "sizes: expected a text such as"),
    ],
)
def test_sizes_of_an_estimate_are_those_of_a_machine(sizes: object, said: str) -> None:
    chip, mapping = sim.load_hardware("fusemax"), mappings.load("fusemax")
    with pytest.raises(ec.CascadeError, match=re.escape(said)):
        sim.simulate(FLASH, sizes, chip, mapping)  # type: ignore[arg-type]


def test_sizes_of_an_estimate_may_be_numpy_s() -> None:
    chip, mapping = sim.load_hardware("fusemax"), mappings.load("fusemax")
    found = sim.simulate(FLASH, {**TABLE, "P": np.array([16, 32.0])}, chip, mapping).latency_s  # type: ignore[dict-item]
    alone = [sim.simulate(FLASH, {**TABLE, "P": np.int64(p)}, chip, mapping).latency_s for p in (16, 32)]
    assert np.asarray(found).tolist() == alone


@pytest.mark.parametrize(
    "asked",
    [
        lambda w: ec.same_result(w, FLASH, TABLE),
        lambda w: ec.same_result(FLASH, FLASH, w),
        lambda w: ec.gradients(w),
        lambda w: ec.in_chunks(w),
        lambda w: ec.bounds(FLASH, w),
        lambda w: ec.bounds(FLASH, TABLE, buffer=[w]),
        lambda w: ec.traffic_curve(FLASH, TABLE, buffers_bytes=[[w], -1]),
        lambda w: ec.evaluate(FLASH, TABLE, w),
        lambda w: ec.random_inputs(FLASH, TABLE, seed=w or "seed"),
        lambda w: ec.passes(FLASH, w or ""),
        lambda w: ec.parse(w or 0),
        lambda w: ec.load(w or "none"),
        lambda w: ec.parse_sizes(w or "", FLASH),
        lambda w: sim.simulate(w, TABLE, sim.load_hardware("fusemax"), mappings.load("fusemax")),
        lambda w: sim.find_mapping(w, TABLE, sim.load_hardware("fusemax")),
        lambda w: sim.find_mapping(FLASH, TABLE, sim.load_hardware("fusemax"), objective=w or 0),
        lambda w: sim.predict("flash_attention", on=w, batch=1, heads=1, seq_q=8, seq_kv=8, head_dim=64),
        lambda w: sim.predict(w or "none", on="h100", batch=1, heads=1, seq_q=8, seq_kv=8, head_dim=64),
        lambda w: sim.pareto(w, minimize=["latency_s"]),
    ],
)
@pytest.mark.parametrize("wrong", [None, 1.5, "nonsense"])
def test_what_is_of_another_type_is_told_as_a_mistake(
    asked: Callable[[object], object], wrong: object
) -> None:
    with pytest.raises(ModelError):
        asked(wrong)


def test_what_a_file_prints_is_not_part_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("print('loaded')\ndef f(q):\n    print('called')\n    return q * 2\n")
    ran = CliRunner().invoke(app, ["trace", f"{path}:f", "--inputs", "q=4x8", "--json"])
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["difference"] == 0
    assert "loaded" in ran.stderr and "called" in ran.stderr
    ran = CliRunner().invoke(app, ["kernels", "check", str(path), "--json"])
    assert json.loads(ran.stdout)["ok"] is False
    assert "loaded" in ran.stderr


@pytest.mark.parametrize("command", ["check", "compile"])
def test_a_file_that_ends_the_program_does_not_end_ours(command: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import sys\nsys.exit(3)\n")
    message = refused("kernels", command, str(path))
    assert message == f"{path}:2: it ends the program while it is loaded (exit 3)"


def test_arrays_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "Q.npy", b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + head.ljust(117) + b"\n"
        )
    message = refused(
        "evaluate", "attention_3pass", *SIZES, "--inputs", str(path), "--out", str(tmp_path / "o")
    )
    assert message == f"{path}: expected an .npz file with one array per input"
    file = tmp_path / "mine.py"
    file.write_text("def f(q):\n    return q * 2\n")
    message = refused("trace", f"{file}:f", "--inputs", "q=99999x99999x99999")
    assert "q=99999x99999x99999: the example would take" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:2], lines[1] + ",1"], "between commas: Expected 9 fields in line 3, saw 10"),
        (
            lambda lines: ['"open', lines[0], '"', *lines[1:]],
            "column 'model' is missing; known: open model,seq_len",
        ),
    ],
    ids=["long", "open"],
)
def test_a_published_table_that_is_none(
    change: Callable[[list[str]], list[str]], said: str, tmp_path: Path
) -> None:
    table = resources.files("validation").joinpath("data/published/fusemax/attn-flat.csv")
    (tmp_path / "attn-flat.csv").write_text("\n".join(change(table.read_text().splitlines()[:3])))
    assert said in refused("validate", "fusemax", "--published", str(tmp_path))
